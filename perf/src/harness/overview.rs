//! All of a run in one picture: a group of bars for each scenario, each bar as long as its server is fast beside the
//! fastest one of that scenario.

use std::fmt::Write as _;

use super::description::{Conditions, League, Work};
use super::plot::{COLOURS, escape, plain, text};
use super::results::{Point, Results, ScenarioResult, number};

const WIDTH: f64 = 860.0;
const NAMES: f64 = 170.0;
const VALUES: f64 = 130.0;
const BAR: f64 = 16.0;
const ROW: f64 = 22.0;
const TITLE: f64 = 30.0;
const GAP: f64 = 14.0;

/// A server in a group.
struct Bar<'a> {
    point: &'a Point,
    value: f64,
}

/// The picture; `None` where nothing was measured.
pub(super) fn of(results: &Results) -> Option<String> {
    let groups: Vec<_> = results
        .scenarios
        .iter()
        .map(|scenario| (scenario, bars(scenario)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let rows: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = groups.len() as f64 * (TITLE + GAP) + rows as f64 * ROW + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut y = GAP;
    for (scenario, bars) in &groups {
        draw_group(&mut svg, y, scenario, bars);
        y += TITLE + GAP + bars.len() as f64 * ROW;
    }
    svg.push_str("</svg>\n");
    (!groups.is_empty()).then_some(svg)
}

/// The servers of a scenario at the first place that ours was measured at: ours, then the fastest first. None, where
/// none was to be fast: beside an upload, all have a rate that is given.
fn bars(scenario: &ScenarioResult) -> Vec<Bar<'_>> {
    if scenario.points.iter().any(|point| point.conditions != Conditions::Alone) {
        return Vec::new();
    }
    let Some(ours) = scenario.points.iter().find(|point| point.league == League::Ours) else {
        return Vec::new();
    };
    let is_beside = |point: &&Point| {
        (point.connections, point.objects) == (ours.connections, ours.objects)
            && point.league != League::Bound
    };
    let bar = |point| Some(Bar { point, value: value(scenario, point)? });
    let mut bars: Vec<_> = scenario.points.iter().filter(is_beside).filter_map(bar).collect();
    bars.sort_by(|left, right| {
        let is_rival = |bar: &Bar<'_>| bar.point.league != League::Ours;
        is_rival(left).cmp(&is_rival(right)).then(right.value.total_cmp(&left.value))
    });
    bars
}

fn value(scenario: &ScenarioResult, point: &Point) -> Option<f64> {
    let median =
        point.median(|figures| Some(if is_large(scenario) { figures.megabytes } else { figures.rate }));
    median.map(|median| median.median)
}

fn is_large(scenario: &ScenarioResult) -> bool {
    scenario.body_bytes >= 1 << 20
}

fn draw_group(svg: &mut String, top: f64, scenario: &ScenarioResult, bars: &[Bar<'_>]) {
    let title = format!("<tspan font-size=\"15\">{}</tspan>", escape(&plain(&scenario.title)));
    text(svg, (GAP, top + 16.0), "start", &title);
    let longest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    for (index, Bar { point, value }) in bars.iter().enumerate() {
        let y = top + TITLE + index as f64 * ROW;
        let is_ours = point.league == League::Ours;
        let colour = match point.league {
            League::Ours => COLOURS[0],
            League::Durable => COLOURS[1],
            League::Shipped | League::Bound => COLOURS[6],
        };
        let is_durable_matter = scenario.work == Work::Put && point.league == League::Shipped;
        let name = format!("{}{}", point.server, if is_durable_matter { " (not durable)" } else { "" });
        let weight = if is_ours { " font-weight=\"bold\"" } else { "" };
        text(svg, (NAMES - 8.0, y + 12.0), "end", &format!("<tspan{weight}>{}</tspan>", escape(&name)));
        let length = (WIDTH - NAMES - VALUES) * value / longest;
        let _ = writeln!(
            svg,
            "<rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
        );
        let unit = if is_large(scenario) { "MB/s" } else { "/s" };
        text(svg, (NAMES + length + 8.0, y + 12.0), "start", &format!("{} {unit}", number(*value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::results::{Figures, Round};

    fn point(server: &str, league: League, connections: u64, rate: f64) -> Point {
        let figures = Figures { rate, ..Figures::default() };
        let round = Round { figures, void: None, measurement: None, compared: None };
        Point {
            server: server.to_owned(),
            league,
            connections,
            objects: 0,
            conditions: Conditions::Alone,
            rounds: vec![round],
        }
    }

    #[test]
    fn ours_comes_first_and_each_bar_is_as_long_as_its_server_is_fast() {
        let scenario = ScenarioResult {
            name: "put".to_owned(),
            title: "durable `PUT`".to_owned(),
            work: Work::Put,
            body_bytes: 4096,
            seconds: 1,
            points: vec![
                point("slow", League::Durable, 64, 100.0),
                point("fast & <loose>", League::Shipped, 64, 400.0),
                point("ours", League::Ours, 64, 200.0),
                point("ours", League::Ours, 1, 20.0),
                point("disk", League::Bound, 64, 900.0),
            ],
            missing: Vec::new(),
            goals: Vec::new(),
        };
        let order: Vec<_> = bars(&scenario).iter().map(|bar| bar.point.server.clone()).collect();
        assert_eq!(order, ["ours", "fast & <loose>", "slow"]);
        let mut results = Results {
            date: String::new(),
            machine: String::new(),
            command: String::new(),
            peers: Vec::new(),
            scenarios: vec![scenario],
        };
        let svg = of(&results).unwrap();
        assert!(
            svg.contains("fast &amp; &lt;loose&gt; (not durable)") && svg.contains("width=\"560.0\""),
            "{svg}"
        );
        assert!(svg.contains("width=\"280.0\"") && svg.contains("width=\"140.0\""), "{svg}");
        results.scenarios[0].points[0].conditions = Conditions::BesideUpload;
        assert_eq!(of(&results), None, "a rate that is given is no speed");
        results.scenarios.clear();
        assert_eq!(of(&results), None);
    }
}
