//! A wave: many worlds that share a database, its batches, its collectors and everything else of a server, and one
//! random order of all that happens.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::join_all;

use super::super::batch::BatchContext;
use super::super::collector::{Collector, GcSettings, GraceClock};
use super::super::contents::LeaseTerm;
use super::super::database::Database;
use super::super::group_commit::Latch;
use super::super::holds::HoldWatch;
use super::actors::{Actor, Answer, Around, KINDS, Next, Question};
use super::guards::{self, Guard};
use super::random::Random;
use super::shared::{
    Backup, BatchJob, Collection, CollectorRun, GRACE, HOLD, LEASE, Pending, Server, Sweep, TICKS, snapshot,
    take_hold,
};
use super::store::Store;
use super::world::{World, world_of};
use crate::domain::value_objects::{InstanceId, Timestamp};
use crate::infrastructure::plane_channel::{BATCH_WRITES_MAX, WriteOutcome};
use crate::infrastructure::storage::{BlobFile, PlaceSequence};

/// In how many of a root's 256 directories the contents are.
pub(super) const SHARDS: u8 = 4;
/// How many moments may pass at most between an answer about a place and its use.
const SOON: u64 = GRACE - 1;
/// How long a wave is, before everybody comes to an end.
const EVENTS: u64 = 140;
/// How often all actors are asked to come to an end before it counts as a fault.
const ROUNDS_MAX: usize = 200;

/// What can happen at a moment of a wave, and how often it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Actors,
    Batch(usize),
    Collect(usize),
    Backup,
    Sweep(usize),
    Restart(usize),
}

/// A broken promise.
pub(super) struct Violation {
    pub(super) world: Option<usize>,
    pub(super) what: String,
}

impl Violation {
    pub(super) fn shared(what: String) -> Self {
        Self { world: None, what }
    }
}

/// An actor in its world.
pub(super) struct Role {
    pub(super) actor: Box<dyn Actor>,
    server: usize,
    /// It takes no step before.
    begins_at: u64,
    has_begun: bool,
    state: RoleState,
}

enum RoleState {
    Ready(Option<Answer>),
    /// For its moment in [`Wave::urgent`].
    Hurries(Option<Answer>),
    /// For an answer.
    Waits,
    Over,
}

impl Role {
    fn can_act(&self, time: u64) -> bool {
        matches!(self.state, RoleState::Ready(_)) && self.begins_at <= time
    }

    fn is_over(&self) -> bool {
        matches!(self.state, RoleState::Over)
    }
}

pub(super) struct Wave<'a> {
    pub(super) store: &'a Store,
    random: Random,
    without: Option<Guard>,
    pub(super) begin: u64,
    time: u64,
    pub(super) worlds: Vec<World>,
    pub(super) roles: Vec<Vec<Role>>,
    pub(super) servers: Vec<Server>,
    collectors: Vec<Option<CollectorRun>>,
    sweeps: Vec<Sweep>,
    backup: Backup,
    backs_up: bool,
    /// Actors in a hurry: when they go on, the world, and which of its actors.
    urgent: Vec<(u64, usize, usize)>,
    pub(super) log: Vec<(u64, String)>,
}

/// Runs `worlds` schedules at once; `Err` tells the first that went wrong.
pub(super) async fn run(
    store: &Store,
    seed: u64,
    worlds: usize,
    without: Option<Guard>,
) -> Result<(), String> {
    let mut wave = Wave::begin(store, seed, worlds, without).await;
    match wave.pass().await {
        Ok(()) => Ok(()),
        Err(violation) => Err(wave.tell(seed, &violation)),
    }
}

impl<'a> Wave<'a> {
    async fn begin(store: &'a Store, seed: u64, worlds: usize, without: Option<Guard>) -> Self {
        let mut random = Random::new(seed);
        let begin = store.take_time(2 * EVENTS + 4 * ROUNDS_MAX as u64);
        let ordered = store.servers.len() == 1;
        let worlds: Vec<_> =
            (0..worlds).map(|number| World::new(number, ordered, &store.roots, &mut random)).collect();
        let roles = worlds.iter().map(|_| cast(&mut random, begin, store.servers.len())).collect();
        let mut servers = Vec::new();
        for (number, database) in store.servers.iter().enumerate() {
            servers.push(Server::begin(store, number, database).await);
        }
        let batch_size = [20, 100, 1000][random.below(3)];
        let mut wave = Self {
            store,
            // A snapshot of everything is the dearest thing here.
            backs_up: random.chance(40) || without.is_some_and(Guard::is_for_backups),
            random,
            without,
            begin,
            time: begin,
            worlds,
            roles,
            sweeps: servers.iter().map(|_| Sweep::Rests).collect(),
            servers,
            collectors: Vec::new(),
            backup: Backup::Rests,
            urgent: Vec::new(),
            log: Vec::new(),
        };
        // Two collectors in any case: of one server, or of two.
        wave.collectors =
            (0..2).map(|number| Some(wave.collector(number % wave.servers.len(), batch_size))).collect();
        wave
    }

    fn collector(&self, server: usize, batch_size: u32) -> CollectorRun {
        let grace = if self.without == Some(Guard::Grace) { 0 } else { GRACE * TICKS };
        let collector = Collector {
            packs: None,
            database: self.servers[server].database.clone(),
            latch: Latch::default(),
            metrics: Arc::default(),
            roots: self.store.roots.clone(),
            ticks: GraceClock::starting_at(0),
            settings: GcSettings {
                interval: std::time::Duration::from_secs(60),
                batch_size,
                grace: std::time::Duration::from_millis(grace),
            },
            holds: HoldWatch::default(),
        };
        CollectorRun::new(server, collector)
    }

    async fn pass(&mut self) -> Result<(), Violation> {
        while self.time < self.begin + EVENTS {
            self.moment().await?;
        }
        self.come_to_an_end().await?;
        self.judge().await?;
        self.store.empty().await;
        Ok(())
    }

    /// One event, or, where servers share the database, some at once.
    async fn moment(&mut self) -> Result<(), Violation> {
        self.time += 1;
        self.hurry().await?;
        let count = if self.servers.len() > 1 { 1 + self.random.below(4) } else { 1 };
        let events: Vec<_> = (0..count).map(|_| self.any_event()).collect();
        let mut jobs: Vec<Event> = Vec::new();
        for event in events {
            match event {
                Event::Batch(_) | Event::Collect(_) if !jobs.contains(&event) => jobs.push(event),
                Event::Batch(_) | Event::Collect(_) => {}
                Event::Actors => self.let_actors_act(75).await?,
                Event::Backup => self.back_up().await?,
                Event::Sweep(server) => self.sweep(server).await?,
                Event::Restart(server) => self.restart(server).await?,
            }
        }
        self.do_at_once(&jobs).await
    }

    fn any_event(&mut self) -> Event {
        let servers = self.servers.len();
        let server = self.random.below(servers);
        let collector = self.random.below(self.collectors.len());
        // What would show a missing guard only rarely gets more chances.
        let (collections, sweeps) = match self.without {
            Some(Guard::Grace) => (70, 7),
            Some(Guard::SweepSparesGarbage) => (28, 20),
            _ => (28, 7),
        };
        let kinds = [
            (40, Event::Actors),
            (22, Event::Batch(server)),
            (collections, Event::Collect(collector)),
            (if self.backs_up { 6 } else { 0 }, Event::Backup),
            (sweeps, Event::Sweep(server)),
            (2, Event::Restart(server)),
        ];
        kinds[self.random.weighted(kinds.iter().map(|(weight, _)| *weight))].1
    }

    /// In about so many of a hundred worlds, one actor takes a step.
    async fn let_actors_act(&mut self, percent: usize) -> Result<(), Violation> {
        for world in 0..self.worlds.len() {
            if !self.random.chance(percent) {
                continue;
            }
            let (first, time) = (self.random.next(), self.time);
            let roles = &self.roles[world];
            let indices = (0..roles.len()).filter(|index| roles[*index].can_act(time));
            let count = indices.clone().count() as u64;
            let index = first.checked_rem(count).and_then(|chosen| indices.clone().nth(chosen as usize));
            if let Some(index) = index {
                self.step(world, index).await?;
            }
        }
        self.check_discarded().await
    }

    /// Those whose time is up take their step now.
    async fn hurry(&mut self) -> Result<(), Violation> {
        let now: Vec<_> = self.urgent.extract_if(.., |(moment, _, _)| *moment <= self.time).collect();
        for (_, world, index) in now {
            let state = &mut self.roles[world][index].state;
            // It may have been cut off.
            if let RoleState::Hurries(answer) = state {
                *state = RoleState::Ready(answer.take());
                self.step(world, index).await?;
            }
        }
        Ok(())
    }

    async fn step(&mut self, world: usize, index: usize) -> Result<(), Violation> {
        let role = &mut self.roles[world][index];
        let RoleState::Ready(answer) = std::mem::replace(&mut role.state, RoleState::Waits) else {
            return Ok(());
        };
        role.has_begun = true;
        let server = &mut self.servers[role.server];
        let mut around = Around {
            roots: &self.store.roots,
            places: &server.places,
            random: &mut self.random,
            without: self.without,
        };
        self.worlds[world].now = (self.time, Some(index));
        let next = role.actor.step(&mut self.worlds[world], &mut around, answer);
        let next = next.map_err(|what| Violation { world: Some(world), what })?;
        role.state = match next {
            Next::Again => RoleState::Ready(None),
            Next::Over => RoleState::Over,
            Next::Ask(Question::Write(write)) => {
                server.queue.push_back(Pending { world, actor: index, write: *write });
                RoleState::Waits
            }
            Next::Ask(Question::Find(name)) => {
                let found = server.database.find(&name).await.unwrap().map(Box::new);
                self.urgent.push((self.time + 1 + self.random.next() % SOON, world, index));
                RoleState::Hurries(Some(Answer::Found(found)))
            }
            Next::Ask(Question::Lease(hash, reach)) => {
                let term = LeaseTerm { tick: self.time * TICKS, ticks: LEASE * TICKS };
                let leased = server.database.lease(&[hash], &reach, term).await.unwrap();
                if self.without == Some(Guard::Lease) {
                    guards::hide_leases(&server.database).await;
                }
                // In whatever class it is whole.
                let whole = leased.into_iter().find(|content| !content.damaged);
                RoleState::Ready(Some(Answer::Leased(whole)))
            }
            Next::Ask(Question::Mark(copy)) => {
                RoleState::Ready(Some(Answer::Marked(server.database.mark(&copy, true).await.unwrap())))
            }
        };
        Ok(())
    }

    /// What actors removed must not be named by a row.
    async fn check_discarded(&mut self) -> Result<(), Violation> {
        let discarded: Vec<_> = self.worlds.iter_mut().flat_map(|world| world.discarded.drain(..)).collect();
        self.check_removed(&discarded).await
    }

    async fn check_removed(&self, removed: &[BlobFile]) -> Result<(), Violation> {
        match guards::serving(&self.servers[0].database, removed).await.first() {
            None => Ok(()),
            Some(file) => Err(Violation {
                world: Some(world_of(file)),
                what: format!("{} was removed while a row named it", file.place),
            }),
        }
    }

    async fn do_at_once(&mut self, events: &[Event]) -> Result<(), Violation> {
        let (mut batches, mut collections) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Batch(server) => batches.extend(self.batch(*server)),
                Event::Collect(collector) => {
                    let run = self.collectors[*collector].take().unwrap();
                    let (time, without) = (self.time, self.without);
                    collections.push(async move { (*collector, run.step(time, without).await) });
                }
                _ => {}
            }
        }
        let batches = join_all(batches.into_iter().map(BatchJob::run));
        let (batches, collections) = futures_util::join!(batches, join_all(collections));
        for batch in batches {
            let (job, outcomes) = batch.map_err(Violation::shared)?;
            self.answer(job, &outcomes)?;
        }
        for (collector, result) in collections {
            let (run, done) = result.map_err(Violation::shared)?;
            self.collectors[collector] = Some(run);
            self.note_collection(collector, done).await?;
        }
        Ok(())
    }

    /// All that waits for a server, or the first of it.
    fn batch(&mut self, number: usize) -> Option<BatchJob> {
        let server = &mut self.servers[number];
        let waiting = server.queue.len().min(BATCH_WRITES_MAX);
        if waiting == 0 {
            return None;
        }
        let count = if self.random.chance(60) { waiting } else { 1 + self.random.below(waiting) };
        self.log.push((self.time, format!("a batch of {count} on server {number}")));
        Some(BatchJob {
            server: number,
            database: server.database.clone(),
            pending: server.queue.drain(..count).collect(),
            next_sequence: server.next_sequence,
            context: BatchContext {
                writer: server.instance,
                now: Timestamp::from_millis(0),
                tick: self.time * TICKS,
            },
            without: self.without,
        })
    }

    fn answer(&mut self, job: BatchJob, outcomes: &[WriteOutcome]) -> Result<(), Violation> {
        self.servers[job.server].next_sequence = job.next_sequence;
        for (pending, outcome) in job.pending.iter().zip(outcomes) {
            let world = &mut self.worlds[pending.world];
            world.now = (self.time, Some(pending.actor));
            let outcome_holds = world.outcome(&pending.write, outcome);
            outcome_holds.map_err(|what| Violation { world: Some(pending.world), what })?;
            let role = &mut self.roles[pending.world][pending.actor];
            if matches!(role.state, RoleState::Waits) {
                role.state = RoleState::Ready(Some(Answer::Outcome(outcome.clone())));
            }
        }
        Ok(())
    }

    async fn note_collection(&mut self, collector: usize, done: Collection) -> Result<(), Violation> {
        let what = match &done {
            Collection::Chose => "has chosen what to forget".to_owned(),
            Collection::Forgot(collected) => format!("has forgotten {} blobs", collected.blobs),
            Collection::Found(places) => format!("has found {places} places of garbage"),
            Collection::Removed(files) => format!("has removed {} files", files.len()),
            Collection::ForgotGarbage => "has forgotten the garbage".to_owned(),
        };
        self.log.push((self.time, format!("collector {collector} {what}")));
        let Collection::Removed(files) = done else { return Ok(()) };
        self.note_removed("is removed by a collector", &files);
        self.check_removed(&files).await
    }

    fn note_removed(&mut self, what: &'static str, files: &[BlobFile]) {
        for file in files {
            let world = &mut self.worlds[world_of(file)];
            world.now = (self.time, None);
            world.note(what, Some(file.place));
        }
    }

    async fn back_up(&mut self) -> Result<(), Violation> {
        let database = self.servers[0].database.clone();
        let hold_first = self.without != Some(Guard::HoldFirst);
        self.backup = match std::mem::replace(&mut self.backup, Backup::Rests) {
            Backup::Rests if hold_first => {
                take_hold(&database).await;
                self.log.push((self.time, "a backup takes a hold".to_owned()));
                Backup::Holds
            }
            Backup::Rests => Backup::HasOnlyRead(snapshot(&database).await),
            Backup::HasOnlyRead(files) => {
                take_hold(&database).await;
                Backup::Copies(files)
            }
            Backup::Holds => {
                self.log.push((self.time, "a backup takes its snapshot".to_owned()));
                Backup::Copies(snapshot(&database).await)
            }
            Backup::Copies(files) if self.random.chance(35) => {
                self.check_copies(&files)?;
                database.release_hold(HOLD).await.unwrap();
                self.log.push((self.time, "a backup has copied all and releases its hold".to_owned()));
                Backup::Rests
            }
            Backup::Copies(files) => Backup::Copies(files),
        };
        Ok(())
    }

    fn check_copies(&self, files: &[BlobFile]) -> Result<(), Violation> {
        for file in files {
            let number = world_of(file);
            let world = &self.worlds[number];
            let content = world.content_of(&file.content_hash, file.storage_class);
            if !world.is_whole(content, file.place) && !world.damaged.contains(&file.place) {
                let what = format!("a backup's snapshot names {}, which is not there", file.place);
                return Err(Violation { world: Some(number), what });
            }
        }
        Ok(())
    }

    async fn sweep(&mut self, number: usize) -> Result<(), Violation> {
        let server = &mut self.servers[number];
        let step = self.sweeps[number].step(server, &self.store.roots, self.without).await;
        let removed = step.map_err(Violation::shared)?;
        if !removed.is_empty() {
            self.log.push((self.time, format!("a sweep of server {number} has removed {}", removed.len())));
        }
        self.note_removed("is removed by a sweep", &removed);
        self.check_removed(&removed).await
    }

    /// A server is cut off at whatever point everybody in it is, and starts again.
    async fn restart(&mut self, number: usize) -> Result<(), Violation> {
        let batch_size = self.collectors[0].as_ref().unwrap().collector.settings.batch_size;
        let cut = std::mem::take(&mut self.servers[number].queue);
        let (before, store) = (self.servers[number].instance, self.store);
        self.servers[number].restart(store).await;
        self.log.push((self.time, format!("server {number} is cut off and starts again")));
        self.refuse_the_dead(number, before, cut).await?;
        for (world, roles) in self.roles.iter_mut().enumerate() {
            for (index, role) in roles.iter_mut().enumerate() {
                if role.server == number && role.has_begun && !role.is_over() {
                    role.state = RoleState::Over;
                    self.worlds[world].now = (self.time, Some(index));
                    self.worlds[world].note("is cut off", None);
                }
            }
        }
        for index in 0..self.collectors.len() {
            if self.collectors[index].as_ref().is_some_and(|run| run.server == number) {
                self.collectors[index] = Some(self.collector(number, batch_size));
            }
        }
        self.sweeps[number] = Sweep::Rests;
        Ok(())
    }

    /// Where servers share a database, a run that has ended may still be about to write.
    async fn refuse_the_dead(
        &self,
        number: usize,
        before: InstanceId,
        cut: VecDeque<Pending>,
    ) -> Result<(), Violation> {
        if !matches!(&*self.servers[number].database, Database::Postgres(_)) || cut.is_empty() {
            return Ok(());
        }
        let writes: Vec<_> = cut.into_iter().map(|pending| pending.write).take(BATCH_WRITES_MAX).collect();
        let context =
            BatchContext { writer: before, now: Timestamp::from_millis(0), tick: self.time * TICKS };
        match self.servers[number].database.apply(&writes, &mut 0, context).await {
            Err(_) => Ok(()),
            Ok(_) => Err(Violation::shared("a run that has ended has written a batch".to_owned())),
        }
    }

    /// Everybody does what is left to do, with everything else going on between.
    async fn come_to_an_end(&mut self) -> Result<(), Violation> {
        for role in self.roles.iter_mut().flatten() {
            role.begins_at = 0;
        }
        let mut rounds = 0;
        while self.roles.iter().flatten().any(|role| !role.is_over()) {
            self.time += 1;
            self.hurry().await?;
            self.let_actors_act(100).await?;
            let batches: Vec<_> = (0..self.servers.len()).map(Event::Batch).collect();
            self.do_at_once(&batches).await?;
            self.do_at_once(&[Event::Collect(rounds % self.collectors.len())]).await?;
            rounds += 1;
            if rounds > ROUNDS_MAX {
                return Err(Violation::shared("somebody does not come to an end".to_owned()));
            }
        }
        while !matches!(self.backup, Backup::Rests) {
            self.back_up().await?;
        }
        for number in 0..self.servers.len() {
            while !matches!(self.sweeps[number], Sweep::Rests) {
                self.sweep(number).await?;
            }
        }
        self.collect_the_rest().await
    }

    /// The collectors end their cycles, and one does another, as in production, after the grace.
    async fn collect_the_rest(&mut self) -> Result<(), Violation> {
        for collector in 0..self.collectors.len() {
            while !self.collectors[collector].as_ref().is_some_and(CollectorRun::is_at_start) {
                self.time += 1;
                self.do_at_once(&[Event::Collect(collector)]).await?;
            }
        }
        self.time += GRACE + 1;
        let mut run = self.collectors[0].take().unwrap();
        run.set_clock(self.time);
        let report = run.collector.cycle(|_| ()).await;
        self.collectors[0] = Some(run);
        report.map(drop).map_err(|error| Violation::shared(format!("the last cycle: {error}")))
    }
}

impl Server {
    async fn begin(store: &Store, number: usize, database: &Arc<Database>) -> Self {
        let instance = store.next_instance();
        let node = format!("node {number}");
        database.begin_instance(instance, &node, Timestamp::from_millis(0)).await.unwrap();
        Self {
            database: database.clone(),
            node,
            instance,
            ended: Vec::new(),
            places: PlaceSequence::new(instance),
            next_sequence: database.next_sequence().await.unwrap(),
            queue: VecDeque::new(),
        }
    }

    async fn restart(&mut self, store: &Store) {
        self.ended.push(self.instance);
        self.instance = store.next_instance();
        self.database.begin_instance(self.instance, &self.node, Timestamp::from_millis(0)).await.unwrap();
        self.places = PlaceSequence::new(self.instance);
        self.queue.clear();
    }
}

/// Who there is in a world, and from when on.
fn cast(random: &mut Random, begin: u64, servers: usize) -> Vec<Role> {
    let count = 5 + random.below(5);
    let role = |random: &mut Random| Role {
        actor: KINDS[random.weighted(KINDS.iter().map(|(weight, _)| *weight))].1(random),
        server: random.below(servers),
        begins_at: begin + random.next() % (EVENTS * 3 / 5),
        has_begun: false,
        state: RoleState::Ready(None),
    };
    (0..count).map(|_| role(random)).collect()
}
