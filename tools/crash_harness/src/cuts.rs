//! Cycles of work, cut, recovery and comparison.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::Arguments;
use crate::aim::{Aim, StartWatch, Watch};
use crate::client::Client;
use crate::collect::Collecting;
use crate::files::{check_files, check_uploads};
use crate::fill::Filling;
use crate::journal::{Journal, Seen};
use crate::machine::Machine;
use crate::random::Random;
use crate::server::Server;
use crate::under_way::{Long, UnderWay};
use crate::work::{Cut, Work};

/// The shortest run before a cut.
const RUN_MS_MIN: u64 = 20;
/// One start in so many is cut itself.
const STARTS_CUT_ONE_IN: u64 = 4;
/// How often a line is printed.
const REPORT_CYCLES: u32 = 50;

/// A whole run of the harness.
pub(crate) struct Campaign<'a> {
    arguments: &'a Arguments,
    machine: Box<dyn Machine>,
    random: Random,
    journal: Journal,
    filling: Option<Filling>,
    /// The last start was not compared with anything: what it serves has to be known before another such.
    is_unchecked: bool,
    /// The last start was cut before it had applied the log.
    replay_is_cut: bool,
    report: Report,
}

impl<'a> Campaign<'a> {
    pub(crate) fn new(arguments: &'a Arguments, machine: Box<dyn Machine>, seed: u64) -> Self {
        Self {
            arguments,
            machine,
            random: Random::new(seed),
            journal: Journal::new(arguments.clients, arguments.keys),
            filling: None,
            is_unchecked: false,
            replay_is_cut: false,
            report: Report::new(),
        }
    }

    /// Cuts as often as was asked for.
    ///
    /// # Errors
    /// Anything that is not as it was acknowledged.
    pub(crate) fn run(&mut self) -> Result<()> {
        self.fill()?;
        for cut in 1..=self.arguments.cycles {
            self.work_and_cut(cut - 1).with_context(|| format!("after cut {}", cut - 1))?;
            self.report.cuts = cut;
            self.machine.recover().with_context(|| format!("recover from cut {cut}"))?;
            if self.random.below(STARTS_CUT_ONE_IN) == 0 {
                self.cut_start().with_context(|| format!("cut the start after cut {cut}"))?;
            }
            if cut % REPORT_CYCLES == 0 || cut == self.arguments.cycles {
                self.report.print(self.journal.present(), self.journal.seen);
            }
        }
        let server = self.start()?;
        self.journal.check(server.port()).context("after the last cut")?;
        if let Some(filling) = &self.filling {
            filling.check_all(server.port()).context("after the last cut")?;
        }
        self.check_files(&server).context("after the last cut")?;
        server.stop()?;
        self.machine.finish()?;
        self.report.print(self.journal.present(), self.journal.seen);
        println!("nothing acknowledged was lost, nothing deleted came back, no file is left over");
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        if self.arguments.objects == 0 {
            return Ok(());
        }
        let server = self.start()?;
        let filling = Filling::put(server.port(), self.arguments.objects, self.arguments.clients)?;
        server.stop()?;
        println!("{} objects are there", self.arguments.objects);
        // What counts is how fast a start is that finds them.
        self.report = Report::new();
        self.filling = Some(filling);
        Ok(())
    }

    /// Cuts the next start too, mostly before it is ready: what it brings in order has to stand being cut itself. Half of
    /// them are cut where the log is being applied.
    fn cut_start(&mut self) -> Result<()> {
        let watch = StartWatch::begin(&self.machine.places());
        let server = Server::begin(&self.arguments.binary, &self.machine.places())?;
        if self.random.below(2) == 0 {
            watch.wait(&mut self.random);
        } else {
            let slowest_ms = u64::try_from(self.report.slowest_listening.as_millis()).unwrap_or(u64::MAX);
            // Not a wait for anything: the moment is what varies.
            std::thread::sleep(Duration::from_millis(self.random.below(slowest_ms)));
        }
        let has_written = watch.sees();
        self.machine.cut(&|| server.kill())?;
        self.report.starts_cut += 1;
        let said = server.reap_heard()?;
        self.replay_is_cut = has_written && said.applied.is_none() && said.port.is_none();
        self.machine.recover()
    }

    fn start(&mut self) -> Result<Server> {
        let server = Server::start(&self.arguments.binary, &self.machine.places())?;
        self.report.note_start(&server);
        // What is applied now, the start before had not come to the end of.
        let rest = std::mem::take(&mut self.replay_is_cut) && server.applied_changes()? > 0;
        self.report.met.replays += u64::from(rest);
        Ok(server)
    }

    /// One run of the server: mostly first what it serves is compared, then all clients work until the cut. A cut that is
    /// aimed at what a start does may come before any of that.
    fn work_and_cut(&mut self, cuts: u32) -> Result<()> {
        let (places, under_way) = (self.machine.places(), UnderWay::default());
        let aim = Aim::any(&places, &mut self.random).filter(|aim| !aim.is_of_starts() || !self.is_unchecked);
        let watch = aim.map(|aim| Watch::begin(aim, &places, &under_way));
        self.is_unchecked = aim.is_some_and(Aim::is_of_starts);
        let server = match self.is_unchecked {
            true => Server::begin(&self.arguments.binary, &places)?,
            false => self.start_and_check(cuts)?,
        };
        self.report.acknowledged += self.work_until_cut(&server, watch, &under_way)?;
        server.reap()
    }

    fn start_and_check(&mut self, cuts: u32) -> Result<Server> {
        let server = self.start()?;
        self.journal.check(server.port())?;
        if let Some(filling) = &self.filling {
            filling.check_some(server.port(), &mut self.random)?;
        }
        if cuts > 0 && cuts.is_multiple_of(self.arguments.check_files_every) {
            self.check_files(&server)?;
        }
        Ok(server)
    }

    fn check_files(&self, server: &Server) -> Result<()> {
        let places = self.machine.places();
        if self.arguments.collect {
            // The server's own collector would be waited for.
            Collecting::new(&self.arguments.binary, &places).run_once()?;
        }
        check_files(server.port(), &places)?;
        check_uploads(&places, &self.journal.waiting_uploads())
    }

    /// Lets all clients work for a random while or until the moment that is waited for, cuts, and says how much was
    /// acknowledged.
    fn work_until_cut(
        &mut self,
        server: &Server,
        watch: Option<Watch<'_>>,
        under_way: &UnderWay,
    ) -> Result<u64> {
        let Self { arguments, machine, random, journal, report, .. } = self;
        let (places, cut_begun, stop) = (machine.places(), AtomicBool::new(false), AtomicBool::new(false));
        let collecting = Collecting::new(&arguments.binary, &places);
        let run_ms = RUN_MS_MIN + random.below(arguments.run_ms_max.saturating_sub(RUN_MS_MIN));
        std::thread::scope(|scope| {
            let clients: Vec<_> = journal
                .shares()
                .map(|share| {
                    let random = Random::new(random.next());
                    let (stop, cut) = (&stop, Cut { begun: &cut_begun, under_way });
                    scope.spawn(move || match server.wait_for_port()? {
                        Some(port) => Work { client: Client::new(port), share, random }.run_until(stop, cut),
                        // It is cut before it listens.
                        None => Ok(0),
                    })
                })
                .collect();
            let collector = arguments.collect.then(|| scope.spawn(|| collecting.run()));
            match watch {
                // Not a wait for anything: the moment is what varies.
                None => std::thread::sleep(Duration::from_millis(run_ms)),
                Some(mut watch) => {
                    if !watch.aim().is_of_starts() {
                        std::thread::sleep(Duration::from_millis(random.below(run_ms)));
                    }
                    let is_met = watch.wait(random);
                    report.met.note(watch.aim(), is_met);
                }
            }
            collecting.end();
            cut_begun.store(true, Ordering::SeqCst);
            report.met.batches += u64::from(under_way.is_running(Long::Batch));
            report.met.pieces += u64::from(under_way.is_running(Long::Piece));
            report.met.joins += u64::from(under_way.is_running(Long::Join));
            let cut = machine.cut(&|| server.kill().and(collecting.kill()));
            stop.store(true, Ordering::Relaxed);
            let mut acknowledged = 0;
            for client in clients {
                acknowledged += client.join().unwrap_or_else(|_| bail!("a client panicked"))?;
            }
            if let Some(collector) = collector {
                collector.join().unwrap_or_else(|_| bail!("the collector's thread panicked"))?;
            }
            cut.map(|()| acknowledged)
        })
    }
}

/// What a run has come to so far.
struct Report {
    started: Instant,
    cuts: u32,
    /// Starts that were cut, on top of these.
    starts_cut: u32,
    acknowledged: u64,
    met: Met,
    slowest_listening: Duration,
    slowest_ready: Duration,
}

/// How many cuts came in the middle of what.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    batches: u64,
    pieces: u64,
    joins: u64,
    compactions: u64,
    snapshots: u64,
    replays: u64,
    /// Those that were aimed at something, and came when it was over or had not come.
    missed: u64,
}

impl Met {
    /// What a cut was aimed at, and whether it met that.
    fn note(&mut self, aim: Aim, is_met: bool) {
        match (is_met, aim) {
            (false, _) => self.missed += 1,
            (true, Aim::Compaction) => self.compactions += 1,
            (true, Aim::Snapshot) => self.snapshots += 1,
            // Each cut is asked for these.
            (true, Aim::Request(_)) => {}
        }
    }
}

impl Report {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            cuts: 0,
            starts_cut: 0,
            acknowledged: 0,
            met: Met::default(),
            slowest_listening: Duration::ZERO,
            slowest_ready: Duration::ZERO,
        }
    }

    fn note_start(&mut self, server: &Server) {
        self.slowest_listening = self.slowest_listening.max(server.listening_after());
        self.slowest_ready = self.slowest_ready.max(server.ready_after());
    }

    fn print(&self, objects: usize, seen: Seen) {
        println!(
            "{} cuts, {} starts cut, {} acknowledged, {objects} objects, slowest start: listening {} ms, ready {} ms; {} s",
            self.cuts,
            self.starts_cut,
            self.acknowledged,
            self.slowest_listening.as_millis(),
            self.slowest_ready.as_millis(),
            self.started.elapsed().as_secs()
        );
        let Met { batches, pieces, joins, compactions, snapshots, replays, missed } = self.met;
        println!(
            "cut in the middle: {batches} batches ({} done in part), {pieces} pieces of uploads ({} came further than was \
             told, {} were done), {joins} joins ({} done), {compactions} compactions, {snapshots} copies of the database, {replays} replays; {missed} \
             aims missed",
            seen.split_batches, seen.ahead, seen.completed, seen.joined
        );
    }
}
