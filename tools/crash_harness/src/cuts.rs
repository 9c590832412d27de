//! Cycles of work, cut, recovery and comparison.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::Arguments;
use crate::client::Client;
use crate::collect::Collecting;
use crate::files::check_files;
use crate::fill::Filling;
use crate::journal::Journal;
use crate::machine::Machine;
use crate::random::Random;
use crate::server::Server;
use crate::work::Work;

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
            let server = self.start_and_check(cut - 1).with_context(|| format!("after cut {}", cut - 1))?;
            self.report.acknowledged += self.work_until_cut(&server)?;
            self.report.cuts = cut;
            server.reap()?;
            self.machine.recover().with_context(|| format!("recover from cut {cut}"))?;
            if self.random.below(STARTS_CUT_ONE_IN) == 0 {
                self.cut_start().with_context(|| format!("cut the start after cut {cut}"))?;
            }
            if cut % REPORT_CYCLES == 0 || cut == self.arguments.cycles {
                self.report.print(self.journal.present());
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
        self.report.print(self.journal.present());
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

    /// Cuts the next start too, mostly before it is ready: what it brings in order has to stand being cut itself.
    fn cut_start(&mut self) -> Result<()> {
        let server = Server::begin(&self.arguments.binary, &self.machine.places())?;
        let slowest_ms = u64::try_from(self.report.slowest_listening.as_millis()).unwrap_or(u64::MAX);
        // Not a wait for anything: the moment is what varies.
        std::thread::sleep(Duration::from_millis(self.random.below(slowest_ms)));
        self.machine.cut(&|| server.kill())?;
        self.report.starts_cut += 1;
        server.reap()?;
        self.machine.recover()
    }

    fn start(&mut self) -> Result<Server> {
        let server = Server::start(&self.arguments.binary, &self.machine.places())?;
        self.report.note_start(&server);
        Ok(server)
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
        check_files(server.port(), &places)
    }

    /// Lets all clients work for a random while, cuts, and says how much was acknowledged.
    fn work_until_cut(&mut self, server: &Server) -> Result<u64> {
        let Self { arguments, machine, random, journal, .. } = self;
        let (places, cut_begun, stop) = (machine.places(), AtomicBool::new(false), AtomicBool::new(false));
        let collecting = Collecting::new(&arguments.binary, &places);
        let run_ms = RUN_MS_MIN + random.below(arguments.run_ms_max.saturating_sub(RUN_MS_MIN));
        std::thread::scope(|scope| {
            let clients: Vec<_> = journal
                .shares()
                .map(|share| {
                    let client = Client::new(server.port());
                    let work = Work { client, share, random: Random::new(random.next()) };
                    let (stop, cut_begun) = (&stop, &cut_begun);
                    scope.spawn(move || work.run_until(stop, cut_begun))
                })
                .collect();
            let collector = arguments.collect.then(|| scope.spawn(|| collecting.run()));
            // Not a wait for anything: the moment is what varies.
            std::thread::sleep(Duration::from_millis(run_ms));
            collecting.end();
            cut_begun.store(true, Ordering::SeqCst);
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
    slowest_listening: Duration,
    slowest_ready: Duration,
}

impl Report {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            cuts: 0,
            starts_cut: 0,
            acknowledged: 0,
            slowest_listening: Duration::ZERO,
            slowest_ready: Duration::ZERO,
        }
    }

    fn note_start(&mut self, server: &Server) {
        self.slowest_listening = self.slowest_listening.max(server.listening_after());
        self.slowest_ready = self.slowest_ready.max(server.ready_after());
    }

    fn print(&self, objects: usize) {
        println!(
            "{} cuts, {} starts cut, {} acknowledged, {objects} objects, slowest start: listening {} ms, ready {} ms; {} s",
            self.cuts,
            self.starts_cut,
            self.acknowledged,
            self.slowest_listening.as_millis(),
            self.slowest_ready.as_millis(),
            self.started.elapsed().as_secs()
        );
    }
}
