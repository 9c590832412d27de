//! Plots as SVG, drawn by hand: two kinds with a logarithmic axis, lines and names are less than any library for them.
//! A whole run is drawn by [`super::overview`].
//!
//! Colours are chosen to be told apart on white and on black, by people who see few colours too; each line also has its
//! name at its end.

use std::fmt::Write as _;

use crate::harness::description::{Conditions, League, Work};
use crate::harness::results::{Point, ScenarioResult, number};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 58.0;
/// Names at the ends of lines are no closer than this.
const NAME_DISTANCE: f64 = 16.0;
/// Ours is the first; the others after Okabe and Ito ("Color universal design", 2008).
pub(super) const COLOURS: [&str; 7] =
    ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888"];

/// One line of a plot.
#[derive(Debug)]
struct Line {
    name: String,
    is_ours: bool,
    points: Vec<(f64, f64)>,
}

/// An axis from its first to its last value.
#[derive(Debug, Clone, Copy)]
struct Axis {
    first: f64,
    last: f64,
    is_logarithmic: bool,
}

/// What stands around the lines.
#[derive(Debug)]
struct Frame<'a> {
    title: &'a str,
    subtitle: &'a str,
    x: Axis,
    y: Axis,
    x_name: &'a str,
    y_name: &'a str,
    x_marks: Vec<(f64, String)>,
}

/// The plots of a scenario with the kinds that they are of: throughput along its curve if it has one, and latencies.
pub(crate) fn of(scenario: &ScenarioResult) -> Vec<(&'static str, String)> {
    let mut plots = Vec::new();
    for (kind, name, x) in [
        ("throughput", "connections", (|point: &Point| point.connections) as fn(&Point) -> u64),
        ("objects", "objects stored", |point| point.objects),
    ] {
        plots.extend(throughput(scenario, name, x).map(|drawing| (kind, drawing)));
    }
    plots.extend(latencies(scenario).map(|drawing| (("latency"), drawing)));
    plots
}

/// Rates (of large bodies: megabytes) along an axis with more than one value.
fn throughput(scenario: &ScenarioResult, x_name: &str, x: fn(&Point) -> u64) -> Option<String> {
    let mut places: Vec<u64> =
        scenario.points.iter().filter(|point| point.league != League::Bound).map(x).collect();
    places.sort_unstable();
    places.dedup();
    if places.len() < 2 {
        return None;
    }
    let is_large = scenario.body_bytes >= 1 << 20;
    let lines = lines(scenario, |point| {
        let known = point.median(|figures| Some(if is_large { figures.megabytes } else { figures.rate }))?;
        Some(vec![(x(point).max(1) as f64, known.median)])
    });
    let y_last = highest(&lines)?;
    let frame = Frame {
        title: &plain(&scenario.title),
        subtitle: "median of the rounds, server on one core; higher is better",
        x: Axis { first: *places.first()? as f64, last: *places.last()? as f64, is_logarithmic: true },
        y: Axis { first: 0.0, last: round_up(y_last), is_logarithmic: false },
        x_name,
        y_name: if is_large { "MB/s" } else { verb(scenario.work) },
        x_marks: places.iter().map(|place| (*place as f64, whole(*place as f64))).collect(),
    };
    Some(draw(&frame, &lines))
}

/// Latencies by the share of operations that are faster, at the point with 64 connections or the first.
fn latencies(scenario: &ScenarioResult) -> Option<String> {
    let mut connections = scenario.points.iter().filter(|point| point.league == League::Ours);
    let chosen = connections
        .clone()
        .find(|point| point.connections == 64)
        .or_else(|| connections.next())
        .map(|point| (point.connections, point.objects))?;
    let lines = lines(scenario, |point| {
        if (point.connections, point.objects) != chosen || point.league == League::Bound {
            return None;
        }
        let at = |place: f64, figure: fn(&crate::report::Latency) -> u64| {
            let known = point.median(|figures| Some(figure(&figures.latency_us) as f64 / 1_000.0))?;
            Some((place, known.median))
        };
        [at(0.0, |l| l.p50), at(1.0, |l| l.p90), at(2.0, |l| l.p99), at(3.0, |l| l.p99_9), at(4.0, |l| l.max)]
            .into_iter()
            .collect()
    });
    let lowest = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(f64::MAX, f64::min);
    let marks = ["p50", "p90", "p99", "p99.9", "max"];
    let frame = Frame {
        title: &format!("{}: latency", plain(&scenario.title)),
        subtitle: &format!("{} connections, median of the rounds; lower is better", whole(chosen.0 as f64)),
        x: Axis { first: 0.0, last: 4.0, is_logarithmic: false },
        y: Axis {
            first: 10_f64.powf(lowest.max(0.001).log10().floor()),
            last: 10_f64.powf(highest(&lines)?.log10().ceil()),
            is_logarithmic: true,
        },
        x_name: "share of operations",
        y_name: "ms",
        x_marks: marks.iter().enumerate().map(|(place, mark)| (place as f64, (*mark).to_owned())).collect(),
    };
    Some(draw(&frame, &lines))
}

/// A line for each server, of what its points give; ours first.
fn lines(scenario: &ScenarioResult, places: impl Fn(&Point) -> Option<Vec<(f64, f64)>>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for point in scenario.points.iter().filter(|point| point.league != League::Bound) {
        let Some(places) = places(point) else {
            continue;
        };
        let is_durable = matches!(point.league, League::Ours | League::Durable);
        let remark = match point.conditions {
            // It says nothing but the rate of the others.
            Conditions::Peak => continue,
            Conditions::BesideUpload => " + upload",
            Conditions::Alone if is_durable || scenario.work != Work::Put => "",
            Conditions::Alone => " (not durable)",
        };
        let name = format!("{}{remark}", point.server);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.extend(places),
            None => lines.push(Line { name, is_ours: point.league == League::Ours, points: places }),
        }
    }
    lines.sort_by_key(|line| !line.is_ours);
    lines
}

fn highest(lines: &[Line]) -> Option<f64> {
    lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.1)
        .filter(|value| *value > 0.0)
        .max_by(f64::total_cmp)
}

impl Axis {
    /// Where a value stands between the start and the end of the axis.
    fn share(self, value: f64) -> f64 {
        if self.is_logarithmic {
            (value.max(self.first) / self.first).ln() / (self.last / self.first).ln().max(f64::EPSILON)
        } else {
            (value - self.first) / (self.last - self.first).max(f64::EPSILON)
        }
    }

    fn marks(self) -> Vec<f64> {
        if !self.is_logarithmic {
            return (0..=4)
                .map(|quarter| self.first + (self.last - self.first) * f64::from(quarter) / 4.0)
                .collect();
        }
        let steps = (self.last / self.first).log10().round() as i32;
        (0..=steps).map(|step| self.first * 10_f64.powi(step)).collect()
    }
}

fn x_of(frame: &Frame<'_>, value: f64) -> f64 {
    LEFT + frame.x.share(value) * (WIDTH - LEFT - RIGHT)
}

fn y_of(frame: &Frame<'_>, value: f64) -> f64 {
    HEIGHT - BOTTOM - frame.y.share(value) * (HEIGHT - TOP - BOTTOM)
}

fn draw(frame: &Frame<'_>, lines: &[Line]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(
        &mut svg,
        (LEFT, 24.0),
        "start",
        &format!("<tspan font-size=\"17\">{}</tspan>", escape(frame.title)),
    );
    text(
        &mut svg,
        (LEFT, 43.0),
        "start",
        &format!("<tspan fill=\"#666\">{}</tspan>", escape(frame.subtitle)),
    );
    draw_axes(&mut svg, frame);
    let ends = name_places(frame, lines);
    for (index, line) in lines.iter().enumerate().rev() {
        draw_line(&mut svg, frame, (line, COLOURS[index.min(COLOURS.len() - 1)], ends[index]));
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_axes(svg: &mut String, frame: &Frame<'_>) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for value in frame.y.marks() {
        let y = y_of(frame, value);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>");
        text(svg, (LEFT - 8.0, y + 4.0), "end", &whole(value));
    }
    for (value, mark) in &frame.x_marks {
        let x = x_of(frame, *value);
        let _ = writeln!(svg, "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#888\"/>");
        text(svg, (x, bottom + 20.0), "middle", mark);
    }
    text(svg, (f64::midpoint(LEFT, right), HEIGHT - 14.0), "middle", frame.x_name);
    text(svg, (LEFT - 8.0, TOP - 6.0), "end", frame.y_name);
}

fn draw_line(svg: &mut String, frame: &Frame<'_>, (line, colour, name_y): (&Line, &str, f64)) {
    let mut path = String::new();
    for (index, (x, y)) in line.points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        let (x, y) = (x_of(frame, *x), y_of(frame, *y));
        let _ = write!(path, "{command}{x:.1} {y:.1}");
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
    }
    let width = if line.is_ours { 3 } else { 2 };
    let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>");
    let weight = if line.is_ours { " font-weight=\"bold\"" } else { "" };
    let name = format!("<tspan fill=\"{colour}\"{weight}>{}</tspan>", escape(&line.name));
    text(svg, (WIDTH - RIGHT + 10.0, name_y + 4.0), "start", &name);
}

/// The heights of the names: those of the ends of their lines, moved apart where they would cover each other.
fn name_places(frame: &Frame<'_>, lines: &[Line]) -> Vec<f64> {
    let end = |line: &Line| line.points.last().map_or(HEIGHT - BOTTOM, |point| y_of(frame, point.1));
    let mut order: Vec<(usize, f64)> = lines.iter().map(end).enumerate().collect();
    // From the lowest up, since many lines end near the bottom and there is no room below it.
    order.sort_by(|left, right| right.1.total_cmp(&left.1));
    let mut places = vec![0.0; lines.len()];
    let mut below = f64::MAX;
    for (index, wanted) in order {
        below = wanted.min(below - NAME_DISTANCE);
        places[index] = below;
    }
    places
}

pub(super) fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
}

/// A value of a mark, without a fraction that says nothing.
fn whole(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 {
        number(value.round()).trim_end_matches(".00").trim_end_matches(".0").to_owned()
    } else {
        format!("{value}")
    }
}

/// The next value of one or two digits that divides by four.
fn round_up(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * unit).find(|bound| *bound >= value).unwrap_or(value)
}

fn verb(work: Work) -> &'static str {
    match work {
        Work::Put => "PUT/s",
        Work::Get => "GET/s",
        Work::List => "lists/s",
    }
}

/// A title without the marks of Markdown.
pub(super) fn plain(title: &str) -> String {
    title.replace('`', "")
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::results::{Figures, Round};

    fn scenario() -> ScenarioResult {
        let point = |connections: u64, rate: f64| {
            let figures = Figures { rate, ..Figures::default() };
            let round = Round { figures, void: None, measurement: None, compared: None };
            let server = "a <b>".to_owned();
            Point {
                server,
                league: League::Ours,
                connections,
                objects: 0,
                conditions: Conditions::Alone,
                rounds: vec![round],
            }
        };
        ScenarioResult {
            name: "x".to_owned(),
            title: "`PUT` & more".to_owned(),
            work: Work::Put,
            body_bytes: 4096,
            seconds: 1,
            points: vec![point(1, 100.0), point(10_000, 900.0)],
            missing: Vec::new(),
            goals: Vec::new(),
        }
    }

    #[test]
    fn a_curve_is_drawn_from_edge_to_edge() {
        let svg = throughput(&scenario(), "connections", |point| point.connections).unwrap();
        assert!(svg.contains("PUT &amp; more") && svg.contains("a &lt;b&gt;"), "{svg}");
        assert!(svg.contains(&format!("M{LEFT:.1} ")), "{svg}");
        assert!(svg.contains(&format!("L{:.1} ", WIDTH - RIGHT)), "{svg}");
        assert!(throughput(&scenario(), "objects", |point| point.objects).is_none());
    }

    #[test]
    fn axes_end_at_round_values() {
        assert_eq!(round_up(101_000.0), 120_000.0);
        assert_eq!(round_up(8.5), 10.0);
        let axis = Axis { first: 0.1, last: 100.0, is_logarithmic: true };
        assert_eq!(axis.marks().len(), 4);
        assert_eq!(axis.share(10_f64.sqrt()), 0.5);
    }

    #[test]
    fn names_never_cover_each_other() {
        let line = |y: f64| Line { name: String::new(), is_ours: false, points: vec![(1.0, y)] };
        let frame = Frame {
            title: "",
            subtitle: "",
            x: Axis { first: 1.0, last: 10.0, is_logarithmic: true },
            y: Axis { first: 0.0, last: 100.0, is_logarithmic: false },
            x_name: "",
            y_name: "",
            x_marks: Vec::new(),
        };
        let mut places = name_places(&frame, &[line(1.0), line(0.5), line(90.0), line(2.0)]);
        places.sort_by(f64::total_cmp);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= NAME_DISTANCE - 1e-9));
    }
}
