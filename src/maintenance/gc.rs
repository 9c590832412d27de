//! `just_storage gc`: one cycle of the collector, and the sweep of what ended runs have left. With `--dry-run` it says
//! what would go and why, and changes nothing.
//!
//! Any error ends it, and nothing more is removed: a directory that cannot be listed or a question that the database
//! does not answer must not look like something that is not there.

use std::collections::HashSet;

use clap::Args;
use indicatif::HumanBytes;

use super::store::{CopyState, PAGE_ROWS, Runs, Serving, Store, Writer};
use super::{MaintenanceError, Verdict};
use crate::config::{CollectionArguments, StoreArguments};
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::persistence::{BlobFilter, BlobRow, Collector, EXAMPLES_MAX};
use crate::infrastructure::storage::{
    BlobFile, list_shard, remove_blob_files, remove_temporary_files_of, temporary_files_of,
};

/// For how long a server must not have been heard of before it can be given up for dead, in seconds. It says that it
/// lives once a second.
const SILENCE_SECS_MIN: i64 = 30;
/// How many wrong counts, or objects that no content finds, are looked at in one go.
const WRONG_ROWS_MAX: u32 = 10_000;

/// What `gc` is told.
#[derive(Debug, Args)]
pub struct CollectArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    collection: CollectionArguments,
    /// Say what would go and why, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also mend what it finds: wrong counts and usage are counted anew, objects that no content finds are found again, lost
    /// copies marked as damaged
    #[arg(long)]
    repair: bool,
    /// Give up the server of this name, which will never come back, and sweep what it left (PostgreSQL)
    #[arg(long, value_name = "NAME")]
    dead_node: Option<String>,
    /// Also remove files of runs that the database does not know, such as those of an interrupted restore
    #[arg(long)]
    unknown_runs: bool,
}

pub(super) async fn collect(arguments: CollectArguments) -> Result<Verdict, MaintenanceError> {
    let CollectArguments { store, collection, dry_run, repair, dead_node, unknown_runs } = arguments;
    let paths = store.into_paths()?;
    Store::with(&paths, async |store| {
        let serving = Serving::find_out(&paths)?;
        let job = Job { store, serving, dry_run, repair, unknown_runs };
        job.end_runs(dead_node).await?;
        job.clear_reservations().await?;
        job.sweep().await?;
        // First: a count that is wrongly zero would give away what objects name.
        let counts = job.check_counts().await?;
        match (dry_run, counts) {
            (true, _) => job.foretell(&collection).await?,
            (false, Verdict::Clean) => job.cycle(&collection).await?,
            (false, Verdict::NotClean) => println!("nothing is collected while counts are wrong"),
        }
        let usage = job.check_usage().await?;
        let contents = job.check_contents().await?;
        let copies = job.check_copies().await?;
        let is_clean = [counts, usage, contents, copies].iter().all(|verdict| *verdict == Verdict::Clean);
        Ok(if is_clean { Verdict::Clean } else { Verdict::NotClean })
    })
    .await
}

struct Job<'s> {
    store: &'s Store,
    serving: Serving,
    dry_run: bool,
    repair: bool,
    unknown_runs: bool,
}

impl Job<'_> {
    /// Notes which runs are over, so that none of them can commit any more.
    async fn end_runs(&self, dead_node: Option<String>) -> Result<(), MaintenanceError> {
        if let Some(node) = dead_node {
            let instances = self.store.database.instances().await?;
            let own = |row: &&_| is_of(row, &node);
            let Some(row) = instances.iter().filter(own).max_by_key(|row| row.heartbeat_age_secs.is_some())
            else {
                return Err(MaintenanceError::NoSuchNode(node));
            };
            if let Some(seconds) = row.heartbeat_age_secs.filter(|age| *age < SILENCE_SECS_MIN) {
                return Err(MaintenanceError::NodeAlive { node, seconds, limit: SILENCE_SECS_MIN });
            }
            if !self.dry_run {
                self.store.database.end_instances_of(&node).await?;
            }
        }
        if let (Serving::Nobody { .. }, false) = (&self.serving, self.dry_run) {
            self.store.database.end_instances_of("").await?;
        }
        Ok(())
    }

    async fn clear_reservations(&self) -> Result<(), MaintenanceError> {
        let database = &self.store.database;
        match self.dry_run {
            true => match database.abandoned_reservations().await? {
                0 => {}
                count => println!("would clear {count} uploads that ended runs have left unfinished"),
            },
            false => match database.clear_reservations().await? {
                0 => {}
                count => println!("cleared {count} uploads that ended runs had left unfinished"),
            },
        }
        Ok(())
    }

    /// What ended runs wrote and no row names.
    async fn sweep(&self) -> Result<(), MaintenanceError> {
        let mut removed = 0;
        for class in StorageClass::ALL {
            for shard in 0..=u8::MAX {
                removed += self.sweep_shard(class, shard).await?;
            }
            removed += self.sweep_temporary_files(class).await?;
        }
        if removed > 0 && !self.dry_run {
            println!("removed {removed} files that runs had left without an object");
        }
        Ok(())
    }

    async fn sweep_shard(&self, class: StorageClass, shard: u8) -> Result<usize, MaintenanceError> {
        let root = self.store.roots.of(class);
        let failed = |operation| MaintenanceError::files(operation, root.path());
        let listed = list_shard(root, shard).map_err(failed("list"))?.files;
        // After the listing: a run that begins now has its row before it has a file.
        let runs = self.serving.runs(&self.store.database).await?;
        let candidates: Vec<BlobFile> = listed.into_iter().filter(|file| self.can_go(&runs, file)).collect();
        let mut count = 0;
        for candidates in candidates.chunks(PAGE_ROWS as usize) {
            let unnamed = self.store.database.unnamed_files(candidates).await?;
            count += unnamed.len();
            if self.dry_run {
                unnamed.iter().for_each(|file| println!("would remove {}: no object names it", name(file)));
            } else {
                remove_blob_files(root, &unnamed).map_err(failed("remove from"))?;
            }
        }
        Ok(count)
    }

    fn can_go(&self, runs: &Runs, file: &BlobFile) -> bool {
        match file.place.file_instance().map_or(Writer::Unknown, |run| runs.writer(run)) {
            Writer::Ended => true,
            Writer::Alive => false,
            Writer::Unknown => self.unknown_runs,
        }
    }

    async fn sweep_temporary_files(&self, class: StorageClass) -> Result<usize, MaintenanceError> {
        let root = self.store.roots.of(class);
        let runs = self.serving.runs(&self.store.database).await?;
        let ended: HashSet<_> = runs.ended().iter().copied().collect();
        if self.dry_run {
            let files = temporary_files_of(root, &ended);
            let files = files.map_err(MaintenanceError::files("list", root.path()))?;
            files.iter().for_each(|file| {
                println!("would remove {}: an upload that ended with its run", file.display());
            });
            return Ok(files.len());
        }
        remove_temporary_files_of(root, &ended).map_err(MaintenanceError::files("remove from", root.path()))
    }

    /// What a cycle would do, blob by blob.
    async fn foretell(&self, collection: &CollectionArguments) -> Result<(), MaintenanceError> {
        let mut foretold_blobs = 0;
        let grace_millis = u64::try_from(collection.settings().grace.as_millis()).unwrap_or(u64::MAX);
        let ticks = self.store.database.ticks().await?;
        let mut pages = self.store.blobs(BlobFilter::Unreferenced);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                break;
            }
            page.iter().for_each(|row| println!("{}", foretold(row, ticks, grace_millis)));
            foretold_blobs += page.len();
        }
        let (places, bytes) = self.store.database.garbage_totals().await?;
        if places > 0 {
            println!("would remove {places} places that are garbage already, {}", HumanBytes(bytes));
        }
        if foretold_blobs == 0 && places == 0 {
            println!("there is no blob that nothing refers to");
        }
        self.say_held().await
    }

    async fn say_held(&self) -> Result<(), MaintenanceError> {
        if !self.store.database.holds().await?.is_empty() {
            println!("a backup is running: no bytes are removed until it has ended");
        }
        Ok(())
    }

    async fn cycle(&self, collection: &CollectionArguments) -> Result<(), MaintenanceError> {
        let (database, roots) = (self.store.database.clone(), self.store.roots.clone());
        let mut collector = Collector::of_tool(database, roots, collection.settings()).await?;
        let report = collector.cycle(|_| ()).await?;
        let (blobs, bytes, objects) = (report.blobs, HumanBytes(report.bytes), report.objects);
        match (blobs, objects) {
            (0, 0) => println!("nothing is over its grace"),
            _ => println!(
                "removed {blobs} blobs that nothing referred to, {bytes}, and {objects} rows of forgotten objects"
            ),
        }
        if report.held { self.say_held().await } else { Ok(()) }
    }

    async fn check_counts(&self) -> Result<Verdict, MaintenanceError> {
        loop {
            let wrong = self.store.database.miscounts(WRONG_ROWS_MAX).await?;
            for miscount in &wrong {
                let (hash, class) = miscount.key;
                let (counted, objects) = (miscount.ref_count, miscount.objects);
                println!("{class} {hash}: counted as {counted}, named by {objects} objects");
            }
            if wrong.is_empty() {
                return Ok(Verdict::Clean);
            }
            if self.dry_run || !self.repair {
                println!("--repair counts them anew");
                return Ok(Verdict::NotClean);
            }
            let keys: Vec<_> = wrong.iter().map(|miscount| miscount.key).collect();
            let mended = self.store.database.recount(&keys).await?;
            println!("counted {mended} blobs anew");
            // More may be wrong than one look shows; where nothing could be mended, looking again shows the same.
            if mended == 0 {
                return Ok(Verdict::NotClean);
            }
        }
    }

    /// What tenants have, which nothing is collected by.
    async fn check_usage(&self) -> Result<Verdict, MaintenanceError> {
        let wrong = self.store.database.wrong_usage().await?;
        if wrong.count == 0 {
            return Ok(Verdict::Clean);
        }
        println!("the usage of {} tenants is not what their objects amount to", wrong.count);
        wrong.examples.iter().for_each(|example| println!("    {example}"));
        if self.dry_run || !self.repair {
            println!("--repair counts it anew");
            return Ok(Verdict::NotClean);
        }
        self.store.database.recount_usage().await?;
        println!("counted the usage of all tenants anew");
        Ok(Verdict::Clean)
    }

    /// Objects that their tenants have, and do not find by their content.
    async fn check_contents(&self) -> Result<Verdict, MaintenanceError> {
        loop {
            let unfound = self.store.database.unfound_objects(WRONG_ROWS_MAX).await?;
            if unfound.is_empty() {
                return Ok(Verdict::Clean);
            }
            let more = if unfound.len() == WRONG_ROWS_MAX as usize { " or more" } else { "" };
            println!("{}{more} objects are found by no content", unfound.len());
            unfound.iter().take(EXAMPLES_MAX).for_each(|id| println!("    {id}"));
            if self.dry_run || !self.repair {
                println!("--repair has them found again");
                return Ok(Verdict::NotClean);
            }
            let indexed = self.store.database.index_objects(&unfound).await?;
            println!("{indexed} of them are found again");
            // Where none could be mended, looking again shows the same.
            if indexed == 0 {
                return Ok(Verdict::NotClean);
            }
        }
    }

    /// Rows whose bytes are gone.
    async fn check_copies(&self) -> Result<Verdict, MaintenanceError> {
        let (mut pages, mut verdict) = (self.store.blobs(BlobFilter::All), Verdict::Clean);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(verdict);
            }
            for row in page.iter().filter(|row| !row.damaged) {
                let what = match self.store.state_of(row).await? {
                    CopyState::Whole | CopyState::Replaced => continue,
                    CopyState::Missing => "its file is gone".to_owned(),
                    CopyState::OfAnotherLength(length) => format!("its file has {length} bytes"),
                };
                verdict = Verdict::NotClean;
                let marked =
                    self.repair && !self.dry_run && self.store.database.mark(&row.location, true).await?;
                let done = if marked { "; marked as damaged" } else { "" };
                println!(
                    "{}, {} bytes, named by {} objects: {what}{done}",
                    name(&row.location),
                    row.size_bytes,
                    row.ref_count
                );
            }
        }
    }
}

fn is_of(row: &crate::infrastructure::persistence::InstanceRow, node: &str) -> bool {
    !row.ended && row.node.as_deref() == Some(node)
}

fn foretold(row: &BlobRow, ticks: u64, grace_millis: u64) -> String {
    let (name, size) = (name(&row.location), HumanBytes(row.size_bytes));
    let seconds = |millis: u64| millis / 1000;
    let begin = row.zero_since.unwrap_or(ticks).max(row.leased_until);
    let since = ticks.saturating_sub(begin);
    if row.leased_until > ticks {
        let left = seconds(row.leased_until - ticks);
        return format!("would keep {name}, {size}: a lease on it is good for {left} s");
    }
    match grace_millis.checked_sub(since).filter(|left| *left > 0) {
        None => format!("would remove {name}, {size}: nothing has referred to it for {} s", seconds(since)),
        Some(left) => {
            format!(
                "would keep {name}, {size}: nothing refers to it, and its grace goes on for {} s",
                seconds(left)
            )
        }
    }
}

/// A copy in words.
pub(super) fn name(file: &BlobFile) -> String {
    format!("{} {}-{}", file.storage_class, file.content_hash, file.place)
}
