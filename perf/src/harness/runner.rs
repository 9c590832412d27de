//! Carries out scenarios: starts all servers of one, then measures them in turns, round by round, in alternating order.
//!
//! ```text
//! start A, B, C; store what is to be read │ round 1: A B C │ round 2: C B A │ round 3: A B C │ … │ stop
//! ```
//!
//! What slows the machine for a while slows all of them. A measurement that says nothing is void and is tried again: the
//! host took the processors away, or the generator was busy while the server was not, or it was late itself.
//!
//! Where a large upload is to go on beside the work, a round begins with what each server does of the work alone and in a
//! closed loop. Both points that are compared have a share of that as their rate, and take turns as servers do.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::fs::Advice;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

use crate::body::{self, BodyPattern};
use crate::catalog::{Catalog, DownloadPlan, Downloader, Lister, ReadOrder};
use crate::command_line::RunOptions;
use crate::companion::Companion;
use crate::get::BUFFER_BYTES;
use crate::harness::description::{self, Conditions, League, Peer, Scenario, Work};
use crate::harness::results::{Figures, Missing, PeerNote, Point, Results, Round, ScenarioResult, number};
use crate::harness::server::{Place, Server, find_program};
use crate::load_loop::{self, LoadPlan, Pace, RunResult};
use crate::machine;
use crate::monitor::Watched;
use crate::process::Process;
use crate::report::{Latency, Measurement};
use crate::response::HEAD_BYTES_MAX;
use crate::template::Values;
use crate::upload::{UploadPlan, Uploader};

/// This project's server, by the name of its description.
const OURS: &str = "just_storage";
/// The first port of the first server; each has ten.
const PORT_FIRST: u16 = 20_100;
const PORTS_OF_SERVER: u16 = 10;
/// More of the time in the hands of the host makes a measurement void.
const STEAL_PERCENT_MAX: f64 = 10.0;
/// A server above this has all that its core gives, so that a busy generator has not held it back.
const SATURATED_CPU_PERCENT_MIN: f64 = 90.0;
/// An open loop that was later than this share of the latencies that it has measured has measured itself: with 99 of 100
/// operations both are compared.
const LAG_PERCENT_MAX: u64 = 50;
/// A void measurement is made again at most so often.
const TRIES_MAX: u64 = 3;
/// With less than this free, what earlier scenarios have stored is removed.
const FREE_BYTES_MIN: u64 = 20 << 30;
/// After that, file systems that avoid inodes which have just been freed need to be left alone.
const PAUSE_AFTER_REMOVAL: Duration = Duration::from_secs(300);
/// How many connections store what is to be read.
const FILL_CONNECTIONS: u64 = 64;
/// Large bodies are stored by fewer.
const FILL_CONNECTIONS_LARGE: u64 = 2;
const LARGE_BODY_BYTES: u64 = 16 << 20;
/// Longer than any store takes.
const FILL_TIME_MAX: Duration = Duration::from_secs(4 * 3_600);
/// How long operations that are under way at the end may take.
const GRACE: Duration = Duration::from_secs(120);

/// Runs scenarios and collects what they give.
#[derive(Debug)]
pub(crate) struct Runner {
    options: RunOptions,
    waiting: VecDeque<String>,
    results: Results,
    /// Where this run's servers keep their data.
    data: PathBuf,
    next_server: u16,
}

/// A server, with what has been stored on it for one scenario.
#[derive(Debug)]
struct Instance {
    peer: Peer,
    place: Place,
    /// Stopped when it is dropped.
    server: Server,
    objects: u64,
    next_number: u64,
    downloads: Option<Arc<DownloadPlan>>,
    /// What it does in a closed loop over so many connections, where that has been measured.
    peaks: HashMap<u64, f64>,
}

/// One measurement of a round: which server, over how many connections, under which conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    instance: usize,
    connections: u64,
    conditions: Conditions,
}

impl Runner {
    /// Gets ready: this process goes to its core, and the names are looked up before anything runs.
    pub(crate) fn new(options: RunOptions) -> anyhow::Result<Self> {
        let known = description::names(&options.descriptions.join("scenarios"))?;
        for name in &options.scenarios {
            ensure!(known.contains(name), "there is no scenario `{name}`, but: {}", known.join(", "));
        }
        let mut core = CpuSet::new();
        core.set(options.load_core);
        sched_setaffinity(None, &core).context("this process could not be pinned to its core")?;

        let date = jiff::Timestamp::now().to_string();
        let data = options.data.join(format!("run-{:016x}", body::run_seed()));
        fs::create_dir_all(&data).with_context(|| format!("{} cannot be made", data.display()))?;
        let data = data.canonicalize()?;
        let waiting = if options.scenarios.is_empty() { known } else { options.scenarios.clone() };
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let results = Results {
            date,
            machine: machine::describe(&data),
            command: format!("just_storage_perf {}", arguments.join(" ")),
            peers: Vec::new(),
            scenarios: Vec::new(),
        };
        Ok(Self { options, waiting: waiting.into(), results, data, next_server: 0 })
    }

    /// What has been found so far.
    pub(crate) fn results(&self) -> &Results {
        &self.results
    }

    /// The next scenario that has not been run.
    pub(crate) fn next_scenario(&mut self) -> Option<String> {
        self.waiting.pop_front()
    }

    /// Removes what the servers have stored.
    pub(crate) fn remove_data(&self) {
        if let Err(error) = fs::remove_dir_all(&self.data) {
            eprintln!("warning: {} could not be removed: {error}", self.data.display());
        }
    }

    /// Runs one scenario on this server and its peers.
    pub(crate) async fn run_scenario(&mut self, name: &str) -> anyhow::Result<()> {
        let scenario: Scenario = description::read(&self.options.descriptions.join("scenarios"), name)?;
        let scenario = Scenario {
            rounds: self.options.rounds.unwrap_or(scenario.rounds),
            seconds: self.options.seconds.unwrap_or(scenario.seconds),
            ..scenario
        };
        eprintln!("{name}: {}", scenario.title);
        self.make_room().await?;
        let mut result = ScenarioResult {
            name: name.to_owned(),
            title: scenario.title.clone(),
            work: scenario.work,
            body_bytes: scenario.body_bytes,
            seconds: scenario.seconds,
            points: Vec::new(),
            missing: Vec::new(),
            goals: Vec::new(),
        };
        let mut instances = self.start_instances(&scenario, &mut result).await?;
        self.measure_in_turns(&scenario, &mut instances, &mut result).await?;
        drop(instances);
        result.judge(&scenario);
        for goal in &result.goals {
            eprintln!("  {}: {}", goal.text, goal.measured);
        }
        self.results.scenarios.push(result);
        Ok(())
    }

    /// Starts all servers of a scenario, one for each number of objects. One that cannot be had is noted.
    async fn start_instances(
        &mut self,
        scenario: &Scenario,
        result: &mut ScenarioResult,
    ) -> anyhow::Result<Vec<Instance>> {
        let is_asked = |name: &String| {
            name == OURS || self.options.peers.as_ref().is_none_or(|names| names.contains(name))
        };
        let names: Vec<(String, bool)> = std::iter::once(&OURS.to_owned())
            .chain(&scenario.peers)
            .map(|name| (name.clone(), is_asked(name)))
            .collect();
        let mut instances = Vec::new();
        for (name, is_asked) in names {
            let peer: Peer = description::read(&self.options.descriptions.join("peers"), &name)?;
            let mut miss = |reason: String| {
                eprintln!("  missing: {}: {reason}", peer.name);
                result.missing.push(Missing { server: peer.name.clone(), league: peer.league, reason });
            };
            if !is_asked {
                miss("not asked for".to_owned());
                continue;
            }
            if !self.note_peer(&peer)? {
                miss(format!("not installed ({})", peer.install));
                continue;
            }
            for &objects in &scenario.objects {
                if self.options.objects_max.is_some_and(|most| objects > most) {
                    miss(format!("with {} objects, left out", number(objects as f64)));
                    continue;
                }
                match self.start_instance(&peer, scenario, objects).await {
                    Ok(instance) => instances.push(instance),
                    Err(error) => miss(format!("{error:#}")),
                }
            }
        }
        Ok(instances)
    }

    /// Writes down which version of a peer there is; says whether it is there at all.
    fn note_peer(&mut self, peer: &Peer) -> anyhow::Result<bool> {
        let program = peer.program.replace("{self}", &std::env::current_exe()?.to_string_lossy());
        let is_there = find_program(&program).is_some();
        if self.results.peers.iter().all(|known| known.name != peer.name) {
            self.results.peers.push(PeerNote {
                name: peer.name.clone(),
                league: peer.league,
                promise: peer.promise.clone(),
                install: peer.install.clone(),
                version: is_there.then(|| version_of(&peer.version)),
            });
        }
        Ok(is_there)
    }

    async fn start_instance(
        &mut self,
        peer: &Peer,
        scenario: &Scenario,
        objects: u64,
    ) -> anyhow::Result<Instance> {
        let port = PORT_FIRST + self.next_server * PORTS_OF_SERVER;
        // A comma would be read as the end of a path by some.
        let name = peer.name.replace(|character: char| !character.is_ascii_alphanumeric(), "-");
        let data = self.data.join(format!("{}-{name}", self.next_server));
        self.next_server += 1;
        let prefix = format!("run-{:016x}", body::run_seed());
        let place = Place { port, data, prefix, core: self.options.server_core };
        let server = Server::start(peer, &place).await?;
        let mut instance = Instance {
            peer: peer.clone(),
            place,
            server,
            objects,
            next_number: 0,
            downloads: None,
            peaks: HashMap::new(),
        };
        if objects > 0 {
            instance.fill(scenario).await.context("what is to be read could not be stored")?;
        }
        Ok(instance)
    }

    async fn measure_in_turns(
        &mut self,
        scenario: &Scenario,
        instances: &mut [Instance],
        result: &mut ScenarioResult,
    ) -> anyhow::Result<()> {
        let mut turns: Vec<Turn> = Vec::new();
        for instance in 0..instances.len() {
            for &connections in &scenario.connections {
                let conditions = scenario.conditions().iter();
                turns.extend(conditions.map(|&conditions| Turn { instance, connections, conditions }));
            }
        }
        result.points.extend(turns.iter().map(|turn| Point {
            server: instances[turn.instance].peer.name.clone(),
            league: instances[turn.instance].peer.league,
            connections: turn.connections,
            objects: instances[turn.instance].objects,
            conditions: turn.conditions,
            rounds: Vec::new(),
        }));
        if scenario.fio.is_some() {
            result.points.push(fio_point());
        }
        for round in 0..scenario.rounds {
            if scenario.fresh && round > 0 {
                for instance in &mut *instances {
                    let fresh = self.start_instance(&instance.peer, scenario, instance.objects).await?;
                    *instance = fresh;
                }
            }
            if let (Some(job), Some(point)) = (&scenario.fio, result.points.last_mut()) {
                rustix::fs::sync();
                point.rounds.push(self.run_fio(job)?);
            }
            for index in order_of_round(&turns, round) {
                let turn = turns[index];
                instances[turn.instance].measure(scenario, turn, &mut result.points[index]).await?;
            }
        }
        Ok(())
    }

    fn run_fio(&self, job: &str) -> anyhow::Result<Round> {
        let file = self.options.descriptions.join("fio").join(format!("{job}.fio"));
        let output = Command::new("taskset")
            .args(["-c", &self.options.server_core.to_string(), "fio", "--output-format=json"])
            .arg(format!("--directory={}", self.data.display()))
            .arg(file)
            .output()
            .context("fio could not be started (apt-get install fio)")?;
        ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).context("fio gave no JSON")?;
        let figures = fio_figures(&report).context("fio's report has no figures")?;
        eprintln!("  fio {job}: {} /s, p50 {} µs", number(figures.rate), figures.latency_us.p50);
        Ok(Round { figures, void: None, measurement: None, compared: None })
    }

    /// Removes what earlier scenarios have stored where the disk is short of room.
    async fn make_room(&self) -> anyhow::Result<()> {
        let file_system = rustix::fs::statvfs(&self.data)?;
        let is_enough = file_system.f_bavail.saturating_mul(file_system.f_frsize) >= FREE_BYTES_MIN;
        // Where this run has stored nothing yet, it can make no room, and what others have removed is their affair.
        if is_enough || fs::read_dir(&self.data)?.next().is_none() {
            return Ok(());
        }
        eprintln!("  the disk is short of room: removing older data, then {PAUSE_AFTER_REMOVAL:?} of rest");
        fs::remove_dir_all(&self.data)?;
        fs::create_dir_all(&self.data)?;
        tokio::time::sleep(PAUSE_AFTER_REMOVAL).await;
        Ok(())
    }
}

impl Instance {
    /// Stores what is to be read or listed.
    async fn fill(&mut self, scenario: &Scenario) -> anyhow::Result<()> {
        let connections =
            if scenario.body_bytes >= LARGE_BODY_BYTES { FILL_CONNECTIONS_LARGE } else { FILL_CONNECTIONS };
        let connections = connections.min(self.objects);
        let pace = Pace {
            rate_per_second: None,
            warm_up: Duration::ZERO,
            length: FILL_TIME_MAX,
            operations_max: self.objects,
            grace: GRACE,
        };
        let uploads = self.upload_plan(scenario, connections)?;
        let download = match self.download_line(scenario) {
            Some(line) => self.place.template(line, None)?,
            None => bail!("it cannot be read from"),
        };
        let uploads = Arc::new(uploads.with_catalog(Catalog::new(download, self.objects)));
        let result = self.upload(&uploads, connections, pace).await?;
        let measurement = Measurement::of(result);
        ensure!(measurement.errors == 0, "{}", measurement.errors_in_words());
        eprintln!(
            "  {}: {} objects stored, {} /s",
            self.peer.name,
            number(measurement.operations as f64),
            number(measurement.operations_per_second)
        );
        let stored = Arc::into_inner(uploads).and_then(UploadPlan::into_catalog);
        let (catalog, pattern) = stored.context("an upload is still at work")?;
        let order = if scenario.cold { ReadOrder::AsStored } else { ReadOrder::Random };
        self.downloads = Some(Arc::new(DownloadPlan::new(catalog, pattern, order)));
        Ok(())
    }

    fn upload_plan(&self, scenario: &Scenario, connections: u64) -> anyhow::Result<UploadPlan> {
        let line = match &self.peer {
            Peer { put_for_id: Some(line), .. } if scenario.by_id => line,
            Peer { put_cold: Some(line), .. } if scenario.cold => line,
            peer => &peer.put,
        };
        let pattern = BodyPattern::for_run(scenario.body_bytes, connections);
        let begin =
            self.peer.put_begin.as_ref().map(|line| self.place.template(line, Some(0))).transpose()?;
        Ok(UploadPlan::new(begin, self.place.template(line, Some(scenario.body_bytes))?, pattern))
    }

    fn download_line(&self, scenario: &Scenario) -> Option<&str> {
        let is_by_id = scenario.by_id && self.peer.put_for_id.is_some();
        if is_by_id || scenario.cold && self.peer.put_cold.is_some() {
            return Some("GET {location}");
        }
        // What is only listed is not read, but has to be named somehow.
        self.peer.get.as_deref().or(self.peer.list.as_deref())
    }

    async fn upload(
        &mut self,
        uploads: &Arc<UploadPlan>,
        connections: u64,
        pace: Pace,
    ) -> anyhow::Result<RunResult> {
        if pace.operations_max < u64::MAX {
            uploads.hash_before(pace.operations_max).await;
        }
        let plan = self.load_plan(connections, pace, HEAD_BYTES_MAX)?;
        let result = load_loop::run(&plan, || Uploader::new(Arc::clone(uploads))).await?;
        self.next_number = result.next_number;
        Ok(result)
    }

    fn load_plan(&self, connections: u64, pace: Pace, buffer_bytes: usize) -> anyhow::Result<LoadPlan> {
        let settle = self.peer.settle.as_ref().map(|line| self.request(line)).transpose()?;
        Ok(LoadPlan {
            address: self.place.address(),
            watched: Watched { server_pid: Some(self.server.pid()), data: Some(self.place.data.clone()) },
            connections,
            pace,
            buffer_bytes,
            first_number: self.next_number,
            settle_request: settle,
        })
    }

    fn request(&self, line: &str) -> anyhow::Result<String> {
        let mut head = Vec::new();
        self.place.template(line, None)?.write(Values::default(), &mut head);
        String::from_utf8(head).context("a request is not UTF-8")
    }

    /// Measures one point, again if that said nothing.
    async fn measure(&mut self, scenario: &Scenario, turn: Turn, point: &mut Point) -> anyhow::Result<()> {
        let connections = turn.connections;
        for _ in 0..TRIES_MAX {
            rustix::fs::sync();
            let round = self.measure_under(scenario, turn).await?;
            eprintln!(
                "  {}{} × {connections}{}: {} /s, {} MB/s, p50 {} µs, p99 {} µs{}{}",
                self.peer.name,
                if turn.conditions == Conditions::BesideUpload { " beside an upload" } else { "" },
                if self.objects > 0 { format!(" of {}", number(self.objects as f64)) } else { String::new() },
                number(round.figures.rate),
                number(round.figures.megabytes),
                round.figures.latency_us.p50,
                round.figures.latency_us.p99,
                round
                    .figures
                    .beside_megabytes
                    .map(|megabytes| format!(", upload {} MB/s", number(megabytes)))
                    .unwrap_or_default(),
                round.void.as_ref().map(|reason| format!("; void: {reason}")).unwrap_or_default(),
            );
            let is_valid = round.void.is_none();
            if is_valid && turn.conditions == Conditions::Peak {
                self.peaks.insert(connections, round.figures.rate);
            }
            point.rounds.push(round);
            if is_valid {
                break;
            }
        }
        Ok(())
    }

    /// Measures with whatever else goes on under the conditions of a turn, at the rate that belongs to them.
    async fn measure_under(&mut self, scenario: &Scenario, turn: Turn) -> anyhow::Result<Round> {
        let Some(beside) = scenario.beside_upload.filter(|_| turn.conditions != Conditions::Peak) else {
            return self.measure_once(scenario, turn.connections, scenario.rate).await;
        };
        let Some(peak) = self.peaks.get(&turn.connections) else {
            return Ok(Round::void("its rate is a share of the peak, which is not known".to_owned()));
        };
        let rate = Some(peak * beside.percent_of_peak / 100.0);
        if turn.conditions == Conditions::Alone {
            return self.measure_once(scenario, turn.connections, rate).await;
        }
        let upload = self.place.template(&self.peer.put, Some(beside.body_bytes))?;
        ensure!(self.peer.put_begin.is_none() && !upload.needs_sha256(), "it takes no upload of one request");
        let plan = UploadPlan::new(None, upload, BodyPattern::for_run(beside.body_bytes, 1));
        // Always to the same place, where what has been replaced takes no more room.
        let companion = match Companion::start(self.place.address(), plan, self.next_number).await {
            Ok(companion) => companion,
            Err(error) => return Ok(Round::void(format!("the upload beside it: {error:#}"))),
        };
        let measured = self.measure_once(scenario, turn.connections, rate).await;
        let moved = companion.finish();
        let mut round = measured?;
        match moved {
            Ok(bytes_per_second) => round.figures.beside_megabytes = Some(bytes_per_second / 1e6),
            Err(error) => round.void = Some(format!("the upload beside it: {error:#}")),
        }
        Ok(round)
    }

    async fn measure_once(
        &mut self,
        scenario: &Scenario,
        connections: u64,
        rate_per_second: Option<f64>,
    ) -> anyhow::Result<Round> {
        if scenario.cold {
            drop_cached_pages(&self.place.data)?;
        }
        for process in Process::with_descendants(self.server.pid())? {
            process.forget_peak();
        }
        let pace = Pace {
            rate_per_second,
            warm_up: Duration::from_secs(scenario.warm_up_seconds),
            length: Duration::from_secs(scenario.seconds),
            operations_max: scenario.count.unwrap_or(u64::MAX),
            grace: GRACE,
        };
        let mut compared = None;
        let result = match scenario.work {
            Work::Put => {
                let uploads = Arc::new(self.upload_plan(scenario, connections)?);
                self.upload(&uploads, connections, pace).await?
            }
            Work::Get => {
                let downloads = self.downloads.clone().context("nothing was stored")?;
                let compared_before = downloads.compared();
                let mut plan = self.load_plan(connections, pace, read_buffer_bytes(scenario.body_bytes))?;
                plan.first_number = 0;
                let result = load_loop::run(&plan, || Downloader::new(Arc::clone(&downloads))).await?;
                compared = Some(downloads.compared() - compared_before);
                result
            }
            Work::List => {
                let line = self.peer.list.as_ref().context("it does not list")?;
                let request: Arc<[u8]> = self.request(line)?.into_bytes().into();
                let plan = self.load_plan(connections, pace, BUFFER_BYTES)?;
                load_loop::run(&plan, || Lister(Arc::clone(&request))).await?
            }
        };
        let measurement = Measurement::of(result);
        let figures = Figures::of(&measurement);
        Ok(Round { figures, void: void_reason(&measurement), measurement: Some(measurement), compared })
    }
}

/// One read takes no more than a body and its head, so that ten thousand connections fit in memory.
fn read_buffer_bytes(body_bytes: u64) -> usize {
    usize::try_from(body_bytes).unwrap_or(usize::MAX).saturating_add(HEAD_BYTES_MAX).min(BUFFER_BYTES)
}

/// Why a measurement says nothing about the server.
fn void_reason(measurement: &Measurement) -> Option<String> {
    let resources = &measurement.resources;
    if measurement.errors > 0 {
        return Some(measurement.errors_in_words());
    }
    if measurement.operations == 0 {
        return Some("nothing was done in the time".to_owned());
    }
    if resources.machine.steal_percent > STEAL_PERCENT_MAX {
        return Some(format!("the host took {:.0} % of the time", resources.machine.steal_percent));
    }
    if let Some(lag_us) = measurement.lag_us {
        // How busy it was does not matter then: it has to be in time.
        let latency_us = measurement.latency_us;
        return (lag_us.p99 * 100 > latency_us.p99 * LAG_PERCENT_MAX).then(|| {
            format!("the generator was {} µs late itself, of {} µs (p99)", lag_us.p99, latency_us.p99)
        });
    }
    let server_percent = resources.server.as_ref().map_or(0.0, |server| server.cpu_percent);
    if measurement.generator_is_too_busy && server_percent < SATURATED_CPU_PERCENT_MIN {
        return Some(format!(
            "the generator used {:.0} % of its core, the server {server_percent:.0} %",
            resources.generator_cpu_percent
        ));
    }
    None
}

/// Lets the page cache forget all files below a directory, so that they are read from the disk.
fn drop_cached_pages(directory: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("{} cannot be read", directory.display()))? {
        let entry = entry?;
        // What has gone since it was listed needs no forgetting.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => drop_cached_pages(&entry.path())?,
            Ok(kind) if kind.is_file() => {
                if let Ok(file) = File::open(entry.path()) {
                    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The order of the turns of a round, by their places: every other time from the last to the first, but first of all
/// those that others need to know of.
fn order_of_round(turns: &[Turn], round: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..turns.len()).collect();
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    order.sort_by_key(|index| turns[*index].conditions != Conditions::Peak);
    order
}

fn version_of(command: &[String]) -> String {
    let Some((program, arguments)) = command.split_first() else {
        return "this tree".to_owned();
    };
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return "unknown".to_owned();
    };
    // Some tell it on one stream, some on the other.
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("unknown")
        .trim()
        .to_owned()
}

fn fio_point() -> Point {
    Point {
        server: "fio".to_owned(),
        league: League::Bound,
        connections: 1,
        objects: 0,
        conditions: Conditions::Alone,
        rounds: Vec::new(),
    }
}

/// The figures of the first job, of its writes if it has any.
fn fio_figures(report: &Value) -> Option<Figures> {
    let job = report.get("jobs")?.get(0)?;
    let direction = ["write", "read"]
        .into_iter()
        .map(|name| &job[name])
        .find(|side| side["total_ios"].as_u64() > Some(0))?;
    // A synced write has ended when its sync has; fio counts a sync of its own apart.
    let percentile_us = |name: &str| {
        direction["clat_ns"]["percentile"][name].as_u64().map_or(0, |nanoseconds| nanoseconds / 1_000)
    };
    let latency_us = Latency {
        p50: percentile_us("50.000000"),
        p90: percentile_us("90.000000"),
        p99: percentile_us("99.000000"),
        p99_9: percentile_us("99.900000"),
        max: direction["clat_ns"]["max"].as_u64()? / 1_000,
    };
    Some(Figures {
        rate: direction["iops"].as_f64()?,
        megabytes: direction["bw_bytes"].as_f64()? / 1e6,
        latency_us,
        ..Figures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fio_tells_rate_and_latency() {
        let report = serde_json::json!({"jobs": [{"read": {"total_ios": 0}, "write": {"total_ios": 9,
            "iops": 250.5, "bw_bytes": 1_026_048, "clat_ns": {"max": 9_000_000, "percentile":
            {"50.000000": 300_500, "99.000000": 8_000_000}}}}]});
        let figures = fio_figures(&report).unwrap();
        assert_eq!((figures.rate, figures.megabytes), (250.5, 1.026_048));
        assert_eq!((figures.latency_us.p50, figures.latency_us.p99), (300, 8_000));
        assert!(fio_figures(&serde_json::json!({"jobs": []})).is_none());
    }

    #[test]
    fn rounds_alternate_and_begin_with_the_peaks() {
        let turn = |instance, conditions| Turn { instance, connections: 64, conditions };
        let mut turns = Vec::new();
        for instance in 0..2 {
            let conditions = [Conditions::Peak, Conditions::Alone, Conditions::BesideUpload];
            turns.extend(conditions.map(|conditions| turn(instance, conditions)));
        }
        assert_eq!(order_of_round(&turns, 0), [0, 3, 1, 2, 4, 5]);
        assert_eq!(order_of_round(&turns, 1), [3, 0, 5, 4, 2, 1]);
        turns.retain(|turn| turn.conditions == Conditions::Alone);
        assert_eq!((order_of_round(&turns, 2), order_of_round(&turns, 3)), (vec![0, 1], vec![1, 0]));
    }

    #[test]
    fn buffers_are_no_larger_than_what_they_are_for() {
        assert_eq!(read_buffer_bytes(4096), 4096 + HEAD_BYTES_MAX);
        assert_eq!(read_buffer_bytes(u64::MAX), BUFFER_BYTES);
    }
}
