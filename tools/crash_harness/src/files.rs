//! The other half of what the server keeps: no file without an object, no object without its file.

use std::collections::HashMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::client::Client;
use crate::server::Places;
use crate::{fill, journal};

/// Longer than the sweep of a start and a cycle of the collector take together.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until every blob file belongs to an object, every object's content has exactly one, and nothing is left of
/// unfinished uploads.
pub(crate) fn check_files(port: u16, places: &Places) -> Result<()> {
    let mut client = Client::new(port);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut needed = Vec::new();
        for namespace in [journal::NAMESPACE, fill::NAMESPACE] {
            needed.extend(client.list(namespace, "COMMITTED")?.into_iter().map(|object| object.blob));
        }
        match compare(&needed, &all_files(places)?, each_blob_is_a_file()) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            // The collector and the sweep take their time.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Holds how many uploads wait in the roots against how many can.
pub(crate) fn check_uploads(places: &Places, allowed: &RangeInclusive<usize>) -> Result<()> {
    let mut found = 0;
    for root in [places.hot(), places.cold()] {
        let open = root.join("uploads/open");
        // There is none before the first upload.
        let tenants = if open.exists() { names(&open)? } else { Vec::new() };
        for tenant in tenants {
            found += names(&open.join(tenant))?.iter().filter(|name| name.ends_with(".state")).count();
        }
    }
    if allowed.contains(&found) { Ok(()) } else { bail!("{found} uploads wait, and {allowed:?} are known") }
}

/// Each blob once or more, against each file: its blob and its name. A blob without a file lies in a pack, and has been
/// read from there, unless each is a file.
fn compare(needed: &[String], files: &[(String, String)], each_is_a_file: bool) -> Result<()> {
    let mut counts: HashMap<&str, usize> = needed.iter().map(|blob| (blob.as_str(), 0)).collect();
    let mut strange = Vec::new();
    for (blob, name) in files {
        match counts.get_mut(blob.as_str()) {
            Some(count) if *count == 0 => *count = 1,
            _ => strange.push(name.as_str()),
        }
    }
    let mut missing: Vec<_> =
        counts.into_iter().filter(|(_, count)| *count == 0).map(|(blob, _)| blob).collect();
    if !each_is_a_file {
        missing.clear();
    }
    if strange.is_empty() && missing.is_empty() {
        return Ok(());
    }
    bail!(
        "of {} files {} belong to no object: {:?}; of the objects' contents {} have no file: {:?}",
        files.len(),
        strange.len(),
        strange.iter().take(5).collect::<Vec<_>>(),
        missing.len(),
        missing.iter().take(5).collect::<Vec<_>>()
    )
}

/// What the server is told too, by the environment that it shares with the harness.
fn each_blob_is_a_file() -> bool {
    std::env::var("ACK").is_ok_and(|ack| ack == "database") && std::env::var("PACK_BLOB_BYTES_MAX").is_err()
}

fn all_files(places: &Places) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for (class, root) in [("hot", places.hot()), ("cold", places.cold())] {
        for shard in fs::read_dir(root.join("blobs")).context("list blobs")? {
            for name in names(&shard?.path())? {
                let hash = name.split('-').next().unwrap_or_default();
                files.push((format!("{class}/{hash}"), name));
            }
        }
        // The check of /health/ready writes one for a moment.
        let temporary = names(&root.join("tmp"))?.into_iter().filter(|name| name != "probe");
        files.extend(temporary.map(|name| ("tmp".to_owned(), name)));
    }
    Ok(files)
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), format!("{name}-1-2"))).collect()
    }

    #[test]
    fn no_upload_waits_that_nobody_made() {
        let directory = std::env::temp_dir().join(format!("waiting-uploads-{}", std::process::id()));
        let places = Places::together(directory.clone());
        assert!(check_uploads(&places, &(0..=0)).is_ok(), "there is no directory of them");
        for (root, names) in [(places.hot(), &["a.state", "a.bytes"][..]), (places.cold(), &["b.state"])] {
            let tenant = root.join("uploads/open/tenant");
            fs::create_dir_all(&tenant).unwrap();
            names.iter().for_each(|name| fs::write(tenant.join(name), "").unwrap());
        }
        for (allowed, holds) in [(2..=2, true), (0..=2, true), (0..=1, false), (3..=4, false)] {
            assert_eq!(check_uploads(&places, &allowed).is_ok(), holds, "{allowed:?}");
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn every_content_has_one_file_and_every_file_a_content() {
        let needed = ["hot/a", "hot/b", "hot/a", "cold/a"].map(str::to_owned);
        assert!(compare(&needed, &files(&["hot/b", "hot/a", "cold/a"]), true).is_ok());
        assert!(compare(&needed, &files(&["hot/b"]), false).is_ok());
        assert!(compare(&needed, &files(&["hot/c"]), false).is_err());
        for wrong in [
            &["hot/a", "hot/b"][..],
            &["hot/a", "hot/b", "cold/a", "cold/a"],
            &["hot/a", "hot/b", "cold/a", "cold/b"],
            &["hot/a", "hot/b", "cold/a", "tmp"],
        ] {
            assert!(compare(&needed, &files(wrong), true).is_err(), "{wrong:?}");
        }
    }
}
