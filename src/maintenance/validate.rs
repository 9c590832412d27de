//! `just_storage validate`: whether rows agree with each other and with the files. It changes nothing, and may run
//! beside a server: what is just being written or removed is looked at once more before it is called wrong.

use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::gc::name;
use super::store::{CopyState, PAGE_ROWS, Serving, Store, Writer};
use super::{MaintenanceError, Verdict};
use crate::config::{StoreArguments, StorePaths};
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::persistence::{BlobFilter, Finding};
use crate::infrastructure::storage::list_shard;

/// What `validate` is told.
#[derive(Debug, Args)]
pub struct ValidateArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    clean: bool,
    database: String,
    blobs: u64,
    bytes: u64,
    references: u64,
    /// Places whose bytes the collector is about to remove.
    garbage: u64,
    /// Files of runs that may be writing them.
    files_in_flight: u64,
    findings: Vec<NamedFinding>,
}

#[derive(Debug, Serialize)]
struct NamedFinding {
    name: &'static str,
    meaning: &'static str,
    count: u64,
    examples: Vec<String>,
}

pub(super) async fn validate(arguments: ValidateArguments) -> Result<Verdict, MaintenanceError> {
    let paths = arguments.store.into_paths()?;
    let report = Store::with(&paths, async |store| examine(store, &paths).await).await?;
    match arguments.json {
        true => println!("{}", serde_json::to_string(&report).unwrap_or_default()),
        false => print(&report),
    }
    Ok(if report.clean { Verdict::Clean } else { Verdict::NotClean })
}

async fn examine(store: &Store, paths: &StorePaths) -> Result<Report, MaintenanceError> {
    let mut report = Report {
        clean: true,
        database: paths.database_url.to_string(),
        blobs: 0,
        bytes: 0,
        references: 0,
        garbage: store.database.garbage_totals().await?.0,
        files_in_flight: 0,
        findings: Vec::new(),
    };
    for (name, finding) in store.database.check_rows().await? {
        report.add(name, finding);
    }
    check_copies(store, &mut report).await?;
    let serving = Serving::find_out(paths)?;
    check_files(store, &serving, &mut report).await?;
    report.clean = report.findings.iter().all(|finding| finding.count == 0);
    Ok(report)
}

/// From the rows to their files.
async fn check_copies(store: &Store, report: &mut Report) -> Result<(), MaintenanceError> {
    let (mut missing, mut of_another_length) = (Finding::default(), Finding::default());
    let mut pages = store.blobs(BlobFilter::All);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        for row in &page {
            report.blobs += 1;
            report.bytes += row.size_bytes;
            report.references += u64::try_from(row.ref_count).unwrap_or(0);
            match store.state_of(row).await? {
                CopyState::Whole | CopyState::Replaced => {}
                CopyState::Missing => missing.add(|| name(&row.location)),
                CopyState::OfAnotherLength(length) => of_another_length
                    .add(|| format!("{}: {length} bytes instead of {}", name(&row.location), row.size_bytes)),
            }
        }
    }
    report.add("blobs_without_file", missing);
    report.add("files_of_another_length", of_another_length);
    Ok(())
}

/// From the files to their rows.
async fn check_files(store: &Store, serving: &Serving, report: &mut Report) -> Result<(), MaintenanceError> {
    let (mut left, mut unknown, mut strange) = (Finding::default(), Finding::default(), Finding::default());
    for class in StorageClass::ALL {
        let root = store.roots.of(class);
        for shard in 0..=u8::MAX {
            let listing = list_shard(root, shard).map_err(MaintenanceError::files("list", root.path()))?;
            for name in listing.strange {
                strange.add(|| format!("{class} {shard:02x}/{}", name.to_string_lossy()));
            }
            // Both after the listing: whatever was committed or begun before it is known by now.
            let runs = serving.runs(&store.database).await?;
            for files in listing.files.chunks(PAGE_ROWS as usize) {
                for file in store.database.unnamed_files(files).await? {
                    match file.place.file_instance().map_or(Writer::Unknown, |run| runs.writer(run)) {
                        Writer::Alive => report.files_in_flight += 1,
                        Writer::Ended => left.add(|| name(&file)),
                        Writer::Unknown => unknown.add(|| name(&file)),
                    }
                }
            }
        }
    }
    report.add("files_left_by_ended_runs", left);
    report.add("files_of_unknown_runs", unknown);
    report.add("strange_files", strange);
    Ok(())
}

impl Report {
    fn add(&mut self, name: &'static str, finding: Finding) {
        let Finding { count, examples } = finding;
        self.findings.push(NamedFinding { name, meaning: meaning(name), count, examples });
    }
}

/// What a finding means, and what can be done about it.
fn meaning(name: &str) -> &'static str {
    match name {
        "database_damage" => "the database's own structure is damaged: restore a backup",
        "objects_without_blob" => {
            "committed objects whose content has no row: they are lost, upload them again"
        }
        "objects_of_another_size" => "objects whose size is not that of their blob",
        "wrong_counts" => {
            "blobs whose count is not the number of their objects: `gc --repair` counts them anew"
        }
        "wrong_usage" => {
            "tenants whose usage is not what their objects amount to: `gc --repair` counts it anew"
        }
        "objects_found_by_no_content" => {
            "objects that their tenants do not find by content: `gc --repair` has them found again"
        }
        "wrong_grace" => {
            "blobs whose grace does not run though nothing refers to them, or the other way: `gc --repair`"
        }
        "garbage_that_serves" => {
            "places that are to be removed though a blob is served from them: stop the server"
        }
        "forgotten_at_no_time" => "objects that are forgotten since no moment, or remembered since one",
        "reservations_of_ended_runs" => {
            "uploads that ended runs have left unfinished: `gc` or the next start clears them"
        }
        "damaged_blobs" => "blobs marked as damaged: upload their content again",
        "blobs_without_file" => {
            "blobs whose file is gone: `gc --repair` marks them, upload their content again"
        }
        "files_of_another_length" => "blobs whose file is shorter or longer: `gc --repair` marks them",
        "files_left_by_ended_runs" => "files that no row names: `gc` or the next start removes them",
        "files_of_unknown_runs" => {
            "files of runs that this database does not know: `gc --unknown-runs` removes them"
        }
        "strange_files" => "files in the storage roots that this program did not name",
        _ => "",
    }
}

fn print(report: &Report) {
    println!(
        "{}: {} blobs, {}, named by {} objects; {} places of garbage, {} files in flight",
        report.database,
        HumanCount(report.blobs),
        HumanBytes(report.bytes),
        HumanCount(report.references),
        HumanCount(report.garbage),
        HumanCount(report.files_in_flight),
    );
    for finding in report.findings.iter().filter(|finding| finding.count > 0) {
        println!("{}: {} {}", finding.name, HumanCount(finding.count), finding.meaning);
        finding.examples.iter().for_each(|example| println!("    {example}"));
    }
    println!("{}", if report.clean { "clean" } else { "not clean" });
}
