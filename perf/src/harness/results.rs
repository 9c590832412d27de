//! What runs have given, as it is kept, and what follows from it.

use serde::{Deserialize, Serialize};

use crate::harness::description::{Conditions, Goal, League, Measure, Scenario, Work};
use crate::report::{Latency, Measurement};

/// All of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    /// When it began, in UTC.
    pub(crate) date: String,
    pub(crate) machine: String,
    /// The command that gave it.
    pub(crate) command: String,
    pub(crate) peers: Vec<PeerNote>,
    pub(crate) scenarios: Vec<ScenarioResult>,
}

/// What is known of a server that was to be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PeerNote {
    pub(crate) name: String,
    pub(crate) league: League,
    pub(crate) promise: String,
    pub(crate) install: String,
    /// Its own words; `None` if it is not installed.
    pub(crate) version: Option<String>,
}

/// What a scenario has given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ScenarioResult {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) work: Work,
    pub(crate) body_bytes: u64,
    pub(crate) seconds: u64,
    pub(crate) points: Vec<Point>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<Missing>,
    pub(crate) goals: Vec<GoalResult>,
}

/// A server that took no part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) server: String,
    pub(crate) league: League,
    pub(crate) reason: String,
}

/// The same work on the same server in all rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) server: String,
    pub(crate) league: League,
    pub(crate) connections: u64,
    pub(crate) objects: u64,
    #[serde(default)]
    pub(crate) conditions: Conditions,
    pub(crate) rounds: Vec<Round>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) figures: Figures,
    /// Why it does not count.
    pub(crate) void: Option<String>,
    /// All that the generator has to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) measurement: Option<Measurement>,
    /// How many bodies came back and were compared with what was uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compared: Option<u64>,
}

/// What a goal calls a server without an upload beside it.
const ALONE: &str = "alone";

/// The figures that are compared. What is not known is absent.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) megabytes: f64,
    pub(crate) latency_us: Latency,
    pub(crate) megabytes_per_cpu_second: Option<f64>,
    pub(crate) cpu_us_per_operation: Option<f64>,
    pub(crate) rss_peak_mib: Option<f64>,
    pub(crate) flushes_per_operation: Option<f64>,
    /// What neither the server nor the generator used of the processors, as a share of one.
    pub(crate) others_cpu_percent: Option<f64>,
    /// What an upload beside the work moved each second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) beside_megabytes: Option<f64>,
    /// How late this program has sent 99 of 100 requests at most, where they were due at some time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lag_p99_us: Option<f64>,
}

/// Whether a goal was reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GoalResult {
    pub(crate) text: String,
    /// The figures in words.
    pub(crate) measured: String,
    /// `None` where it could not be judged.
    pub(crate) reached: Option<bool>,
}

/// A median with what it is the median of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Results {
    /// What the files of a run are called: its date, without what file names should not have.
    pub(crate) fn file_stem(&self) -> String {
        self.date.chars().take(19).map(|character| if character == ':' { '-' } else { character }).collect()
    }

    /// These results, with those of a later run in place of what they have in common.
    pub(crate) fn replaced_by(mut self, later: Self) -> Self {
        for scenario in later.scenarios {
            match self.scenarios.iter_mut().find(|known| known.name == scenario.name) {
                Some(known) => *known = scenario,
                None => self.scenarios.push(scenario),
            }
        }
        for peer in later.peers {
            if self.peers.iter().all(|known| known.name != peer.name) {
                self.peers.push(peer);
            }
        }
        Self { date: later.date, machine: later.machine, command: later.command, ..self }
    }
}

impl Figures {
    /// Those of a run of the generator.
    pub(crate) fn of(measurement: &Measurement) -> Self {
        let server = measurement.resources.server.as_ref();
        Self {
            rate: measurement.operations_per_second,
            megabytes: measurement.megabytes_per_second,
            latency_us: measurement.latency_us,
            megabytes_per_cpu_second: measurement.megabytes_per_server_cpu_second(),
            cpu_us_per_operation: server.and_then(|server| server.cpu_us_per_operation),
            rss_peak_mib: server.map(|server| server.rss_peak_mib),
            flushes_per_operation: measurement.flushes_per_operation(),
            others_cpu_percent: Some(measurement.resources.machine.others_cpu_percent),
            beside_megabytes: None,
            lag_p99_us: measurement.lag_us.map(|lag| lag.p99 as f64),
        }
    }

    fn measure(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Rate => Some(self.rate),
            Measure::Megabytes => Some(self.megabytes),
            Measure::MegabytesPerCpuSecond => self.megabytes_per_cpu_second,
            Measure::P50Us => Some(self.latency_us.p50 as f64),
            Measure::P99Us => Some(self.latency_us.p99 as f64),
            Measure::RssPeakMib => self.rss_peak_mib,
        }
    }
}

impl Round {
    /// One that was not measured.
    pub(crate) fn void(reason: String) -> Self {
        Self { figures: Figures::default(), void: Some(reason), measurement: None, compared: None }
    }
}

impl Point {
    /// The rounds that count.
    pub(crate) fn valid_rounds(&self) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(|round| round.void.is_none())
    }

    /// The median over the rounds that count and know the figure.
    pub(crate) fn median(&self, figure: impl Fn(&Figures) -> Option<f64>) -> Option<Median> {
        median(self.valid_rounds().filter_map(|round| figure(&round.figures)).collect())
    }

    fn measure(&self, measure: Measure) -> Option<Median> {
        self.median(|figures| figures.measure(measure))
    }
}

/// The median of some figures; of an even number, the mean of the two in the middle.
fn median(mut figures: Vec<f64>) -> Option<Median> {
    figures.sort_by(f64::total_cmp);
    let (&least, &most) = (figures.first()?, figures.last()?);
    let middle = figures.len() / 2;
    let median = if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        f64::midpoint(figures[middle - 1], figures[middle])
    };
    Some(Median { median, least, most })
}

impl ScenarioResult {
    /// Holds the points against the goals.
    pub(crate) fn judge(&mut self, scenario: &Scenario) {
        self.goals = scenario.goals.iter().map(|goal| self.judge_goal(goal)).collect();
    }

    fn judge_goal(&self, goal: &Goal) -> GoalResult {
        let (measured, reached) = self.judged(goal).unwrap_or_else(|| ("not measured".to_owned(), None));
        GoalResult { text: goal.text.clone(), measured, reached }
    }

    fn judged(&self, goal: &Goal) -> Option<(String, Option<bool>)> {
        let conditions = match goal.against.as_deref() {
            Some(ALONE) => Conditions::BesideUpload,
            _ => Conditions::Alone,
        };
        let ours = self.points.iter().filter(|point| {
            point.league == League::Ours
                && point.conditions == conditions
                && goal.connections.is_none_or(|wanted| wanted == point.connections)
        });
        let ours: Vec<&Point> = ours.collect();
        // The worst or the last may be the one that is not known.
        if ours.iter().any(|point| point.measure(goal.measure).is_none()) {
            return None;
        }
        let values = || ours.iter().filter_map(|point| point.measure(goal.measure)).map(|known| known.median);
        if let Some(bound) = goal.at_least {
            let worst = values().min_by(f64::total_cmp)?;
            return Some((number(worst), Some(worst >= bound)));
        }
        if let Some(bound) = goal.at_most {
            let worst = values().max_by(f64::total_cmp)?;
            return Some((number(worst), Some(worst <= bound)));
        }
        if let Some(bound) = goal.fall_percent_max {
            let (best, last) = (values().max_by(f64::total_cmp)?, values().next_back()?);
            let fall = (1.0 - last / best) * 100.0;
            // A curve of one point says nothing.
            return Some((format!("{fall:.1} %"), (ours.len() > 1).then_some(fall <= bound)));
        }
        let pairs = ours.iter().filter_map(|point| {
            let rival = self.rival(goal, point)?;
            Some((point.measure(goal.measure)?.median, rival.0, rival.1))
        });
        if let Some(bound) = goal.times_at_least {
            let (ours, theirs, name) =
                pairs.min_by(|left, right| (left.0 / left.1).total_cmp(&(right.0 / right.1)))?;
            let times = ours / theirs;
            let mut words = format!("{times:.2} × {name} ({} against {})", number(ours), number(theirs));
            let absent = self.missing_rivals(goal);
            if !absent.is_empty() {
                words.push_str(&format!(", without {}", absent.join(", ")));
            }
            // More rivals can only make a goal that is missed already harder.
            let reached = times >= bound;
            return Some((words, (absent.is_empty() || !reached).then_some(reached)));
        }
        if let Some(bound) = goal.times_at_most {
            let (ours, theirs, name) =
                pairs.max_by(|left, right| (left.0 / left.1).total_cmp(&(right.0 / right.1)))?;
            let times = ours / theirs;
            let words = format!("{times:.2} × {name} ({} against {})", number(ours), number(theirs));
            return Some((words, Some(times <= bound)));
        }
        let bound = goal.plus_at_most?;
        let (ours, theirs, name) =
            pairs.max_by(|left, right| (left.0 - left.1).total_cmp(&(right.0 - right.1)))?;
        let plus = ours - theirs;
        Some((
            format!("{name} {plus:+.0} ({} against {})", number(ours), number(theirs)),
            Some(plus <= bound),
        ))
    }

    /// The names of those whom a goal is against and who took no part: one of them may be the best.
    fn missing_rivals(&self, goal: &Goal) -> Vec<&str> {
        let Some(against) = goal.against.as_deref() else {
            return Vec::new();
        };
        let absent =
            self.missing.iter().filter(|missing| is_against(against, missing.league, &missing.server));
        absent.map(|missing| missing.server.as_str()).collect()
    }

    /// The best of whom a goal is against, at the same point of the curve. A bound has one point for all.
    fn rival(&self, goal: &Goal, point: &Point) -> Option<(f64, String)> {
        let against = goal.against.as_deref()?;
        if against == ALONE {
            let itself = self.points.iter().find(|rival| {
                rival.conditions == Conditions::Alone
                    && (&rival.server, rival.connections, rival.objects)
                        == (&point.server, point.connections, point.objects)
            });
            return Some((itself?.measure(goal.measure)?.median, ALONE.to_owned()));
        }
        let rivals = self.points.iter().filter(|rival| is_against(against, rival.league, &rival.server));
        let rivals = rivals.filter(|rival| {
            rival.league == League::Bound
                || (rival.connections == point.connections && rival.objects == point.objects)
        });
        // One whose measurements are all void may be the best, so that nothing is said without it.
        let known: Option<Vec<(f64, String)>> =
            rivals.map(|rival| Some((rival.measure(goal.measure)?.median, rival.server.clone()))).collect();
        known?.into_iter().max_by(|left, right| left.0.total_cmp(&right.0))
    }
}

/// Whether a goal is against a server.
fn is_against(against: &str, league: League, server: &str) -> bool {
    match against {
        "durable" => league == League::Durable,
        "shipped" => league == League::Shipped,
        "peers" => matches!(league, League::Durable | League::Shipped),
        name => server == name,
    }
}

/// A figure with as many digits as it is good for.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0
            && (whole.len() - index).is_multiple_of(3)
            && digit.is_ascii_digit()
            && !grouped.ends_with('-')
        {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(server: &str, league: League, connections: u64, rates: &[f64]) -> Point {
        let rounds = rates.iter().map(|rate| Round {
            figures: Figures { rate: *rate, ..Figures::default() },
            void: (*rate < 0.0).then(|| "steal".to_owned()),
            measurement: None,
            compared: None,
        });
        Point {
            server: server.to_owned(),
            league,
            connections,
            objects: 0,
            conditions: Conditions::Alone,
            rounds: rounds.collect(),
        }
    }

    fn judged(goal: &str) -> (String, Option<bool>) {
        let scenario = ScenarioResult {
            name: "x".to_owned(),
            title: "x".to_owned(),
            work: Work::Put,
            body_bytes: 1,
            seconds: 1,
            points: vec![
                point("ours", League::Ours, 1, &[10.0, 30.0, 20.0, -1.0]),
                point("ours", League::Ours, 64, &[15.0]),
                point("slow", League::Durable, 64, &[3.0]),
                point("best", League::Durable, 64, &[5.0]),
                point("fast", League::Shipped, 64, &[500.0]),
                point("fio", League::Bound, 1, &[30.0]),
                Point { conditions: Conditions::Peak, ..point("ours", League::Ours, 64, &[900.0]) },
                Point { conditions: Conditions::BesideUpload, ..point("ours", League::Ours, 64, &[45.0]) },
            ],
            missing: Vec::new(),
            goals: Vec::new(),
        };
        let goal: Goal = toml::from_str(&format!("text = ''\nmeasure = 'rate'\n{goal}")).unwrap();
        let judged = scenario.judge_goal(&goal);
        (judged.measured, judged.reached)
    }

    #[test]
    fn goals_are_judged_by_medians_of_rounds_that_count() {
        assert_eq!(judged("at_least = 15"), ("15.0".to_owned(), Some(true)));
        assert_eq!(judged("at_least = 21\nconnections = 1"), ("20.0".to_owned(), Some(false)));
        assert_eq!(judged("at_most = 19"), ("20.0".to_owned(), Some(false)));
        assert_eq!(judged("fall_percent_max = 20"), ("25.0 %".to_owned(), Some(false)));
        assert_eq!(judged("at_least = 1\nconnections = 8").1, None);
    }

    #[test]
    fn a_goal_against_a_league_is_against_its_best_at_the_same_point() {
        let (words, reached) = judged("against = 'durable'\ntimes_at_least = 3");
        assert_eq!((words.as_str(), reached), ("3.00 × best (15.0 against 5.00)", Some(true)));
        assert_eq!(judged("against = 'fast'\ntimes_at_least = 1").1, Some(false));
        assert_eq!(judged("against = 'absent'\ntimes_at_least = 1").1, None);
        assert_eq!(judged("against = 'fio'\ntimes_at_least = 0.6").1, Some(false));
        assert_eq!(judged("against = 'fio'\nplus_at_most = 1").1, Some(true));
    }

    #[test]
    fn a_goal_against_itself_alone_compares_what_is_measured_beside_an_upload() {
        let (words, reached) = judged("against = 'alone'\ntimes_at_most = 3");
        assert_eq!((words.as_str(), reached), ("3.00 × alone (45.0 against 15.0)", Some(true)));
        assert_eq!(judged("against = 'alone'\ntimes_at_most = 2.9").1, Some(false));
        assert_eq!(judged("against = 'alone'\ntimes_at_most = 3\nconnections = 1").1, None);
    }

    #[test]
    fn nothing_is_said_against_a_league_of_which_one_is_not_known() {
        let judged = |void_rate: f64| {
            let mut scenario = ScenarioResult {
                name: String::new(),
                title: String::new(),
                work: Work::Put,
                body_bytes: 1,
                seconds: 1,
                points: vec![point("ours", League::Ours, 1, &[9.0]), point("a", League::Durable, 1, &[3.0])],
                missing: Vec::new(),
                goals: Vec::new(),
            };
            scenario.points.push(point("b", League::Durable, 1, &[void_rate]));
            let goal = "text = ''\nmeasure = 'rate'\nagainst = 'durable'\ntimes_at_least = 2";
            scenario.judge_goal(&toml::from_str(goal).unwrap()).reached
        };
        assert_eq!(judged(-1.0), None);
        assert_eq!(judged(2.0), Some(true));
    }

    #[test]
    fn no_victory_is_won_over_a_league_of_which_one_took_no_part() {
        let judged = |times: u32, league: League| {
            let missing = Missing { server: "b".to_owned(), league, reason: "not installed".to_owned() };
            let scenario = ScenarioResult {
                name: String::new(),
                title: String::new(),
                work: Work::Put,
                body_bytes: 1,
                seconds: 1,
                points: vec![point("ours", League::Ours, 1, &[9.0]), point("a", League::Durable, 1, &[3.0])],
                missing: vec![missing],
                goals: Vec::new(),
            };
            let goal = format!("text = ''\nmeasure = 'rate'\nagainst = 'durable'\ntimes_at_least = {times}");
            scenario.judge_goal(&toml::from_str(&goal).unwrap()).reached
        };
        assert_eq!(judged(2, League::Durable), None);
        assert_eq!(judged(4, League::Durable), Some(false));
        assert_eq!(judged(2, League::Shipped), Some(true));
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(-123.4), "-123");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.0), "0.00");
    }
}
