//! The results as Markdown.

use std::fmt::Write as _;

use crate::harness::description::{Conditions, League};
use crate::harness::results::{Figures, Median, Point, Results, ScenarioResult, number};

/// All of a run: what was asked and reached, then the figures of each scenario, then who took part.
pub(crate) fn of(results: &Results) -> String {
    let mut text = format!("{} · {}\n\n`{}`\n", results.date, results.machine, results.command);
    text.push_str("\n| work | asked for | measured | reached |\n|---|---|---|---|\n");
    for scenario in &results.scenarios {
        for goal in &scenario.goals {
            let reached = match goal.reached {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "not judged",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} | {} | {} | {reached} |", scenario.title, goal.text, goal.measured);
        }
    }
    for scenario in &results.scenarios {
        write_scenario(&mut text, scenario);
    }
    write_peers(&mut text, results);
    text
}

fn write_scenario(text: &mut String, scenario: &ScenarioResult) {
    let _ = write!(text, "\n### {}\n\n", scenario.title);
    text.push_str("Median of the rounds (least–most); of p99 and p99.9 the medians too.\n\n");
    text.push_str(
        "| server | connections | stored | operations/s | MB/s | p50 · p99 · p99.9, ms | CPU, µs each | \
         MB per CPU second | flushes each | peak MiB | others' CPU, % | rounds |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut points: Vec<&Point> = scenario.points.iter().collect();
    points.sort_by_key(|point| league_order(point.league));
    for point in points {
        write_point(text, point);
    }
    for missing in &scenario.missing {
        let _ = write!(text, "\nMissing: {}: {}\n", missing.server, missing.reason);
    }
}

fn write_point(text: &mut String, point: &Point) {
    let show = |figure: fn(&Figures) -> Option<f64>| point.median(figure).map_or("–".to_owned(), with_range);
    let latency = |figure: fn(&Figures) -> u64| {
        let known = point.median(|figures| Some(figure(figures) as f64 / 1_000.0));
        known.map_or("–".to_owned(), |known| number(known.median))
    };
    let valid = point.valid_rounds().count();
    let void = point.rounds.len() - valid;
    let _ = writeln!(
        text,
        "| {} ({}){} | {} | {} | {} | {} | {} · {} · {} | {} | {} | {} | {} | {} | {valid}{} |",
        point.server,
        league_name(point.league),
        conditions_in_words(point),
        number(point.connections as f64).trim_end_matches(".00"),
        number(point.objects as f64).trim_end_matches(".00"),
        show(|figures| Some(figures.rate)),
        show(|figures| Some(figures.megabytes)),
        latency(|figures| figures.latency_us.p50),
        latency(|figures| figures.latency_us.p99),
        latency(|figures| figures.latency_us.p99_9),
        show(|figures| figures.cpu_us_per_operation),
        show(|figures| figures.megabytes_per_cpu_second),
        show(|figures| figures.flushes_per_operation),
        show(|figures| figures.rss_peak_mib),
        show(|figures| figures.others_cpu_percent),
        if void > 0 { format!(", {void} void") } else { String::new() },
    );
}

/// What the work of a point had beside it, and whether it was kept waiting by the generator.
fn conditions_in_words(point: &Point) -> String {
    let median = |figure: fn(&Figures) -> Option<f64>| point.median(figure).map(|known| known.median);
    let mut words = match point.conditions {
        Conditions::Alone => String::new(),
        Conditions::Peak => ", closed loop".to_owned(),
        Conditions::BesideUpload => {
            let megabytes = median(|figures| figures.beside_megabytes);
            megabytes.map_or(", beside an upload".to_owned(), |megabytes| {
                format!(", beside an upload of {} MB/s", number(megabytes))
            })
        }
    };
    if let Some(lag_us) = median(|figures| figures.lag_p99_us) {
        let _ = write!(words, "; sent up to {} ms late (p99)", number(lag_us / 1_000.0));
    }
    words
}

fn with_range(known: Median) -> String {
    if known.least == known.most {
        return number(known.median);
    }
    format!("{} ({}–{})", number(known.median), number(known.least), number(known.most))
}

fn write_peers(text: &mut String, results: &Results) {
    text.push_str("\n### Servers\n\n| server | league | before it answers | version |\n|---|---|---|---|\n");
    for peer in &results.peers {
        let version = match &peer.version {
            Some(version) => version.clone(),
            None => format!("not installed: `{}`", peer.install),
        };
        let _ =
            writeln!(text, "| {} | {} | {} | {version} |", peer.name, league_name(peer.league), peer.promise);
    }
}

fn league_order(league: League) -> u8 {
    match league {
        League::Ours => 0,
        League::Durable => 1,
        League::Shipped => 2,
        League::Bound => 3,
    }
}

fn league_name(league: League) -> &'static str {
    match league {
        League::Ours => "ours, durable",
        League::Durable => "durable",
        League::Shipped => "not durable",
        League::Bound => "bound",
    }
}
