//! Many keys in one request: each of its files or items happens by itself, whole or not at all.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::client::{Client, Request, TENANT};
use crate::content::Content;
use crate::journal::{Change, NAMESPACE, Share};
use crate::random::Random;
use crate::under_way::Long;
use crate::work::{Cut, VERSIONS_MAX, any_class};

/// How many keys a batch is about at most.
const KEYS_MAX: u64 = 24;
/// Longer contents are not put by batches, which are to be short enough to be met in the middle again and again.
const CONTENT_BYTES_MAX: usize = 400_000;
/// Of a tar archive.
const BLOCK_BYTES: usize = 512;

/// Puts or deletes some keys at once; says how many of these changes were acknowledged.
///
/// # Errors
/// An answer that the server must not give.
pub(crate) fn batch(
    client: &mut Client,
    share: &mut Share,
    random: &mut Random,
    cut: &Cut<'_>,
) -> Result<u64> {
    if !share.batch.is_empty() {
        // One is in doubt already: it is to be known of each how it went.
        return Ok(0);
    }
    let puts = random.below(4) > 0;
    let has_room = |index: &usize| !puts || share.entries[*index].versions.len() < VERSIONS_MAX;
    let mut free: Vec<_> = share.settled().into_iter().filter(has_room).collect();
    let mut chosen = Vec::new();
    for _ in 0..(2 + random.below(KEYS_MAX - 1)).min(free.len() as u64) {
        chosen.push(free.swap_remove(random.index(free.len())));
    }
    if chosen.is_empty() {
        return Ok(0);
    }
    if puts { put(client, share, &chosen, random, cut) } else { delete(client, share, &chosen, random, cut) }
}

fn put(
    client: &mut Client,
    share: &mut Share,
    chosen: &[usize],
    random: &mut Random,
    cut: &Cut<'_>,
) -> Result<u64> {
    let class = any_class(random);
    let mut archive = Vec::new();
    let mut expected = Vec::new();
    for index in chosen {
        let entry = &mut share.entries[*index];
        let content = loop {
            let content = Content::any(random);
            if content.length <= CONTENT_BYTES_MAX {
                break content;
            }
        };
        append_file(&mut archive, &entry.key, &content.bytes());
        expected.push(if entry.is_absent() { 201 } else { 200 });
        entry.in_doubt = Some(Change::Put(content, class));
    }
    archive.resize(archive.len() + 2 * BLOCK_BYTES, 0);
    let target =
        format!("/v1/batch/put?namespace={NAMESPACE}&tenant_id={TENANT}&storage_class={}", class.word());
    ask(client, share, (chosen, &expected), (&target, &archive), cut)
}

fn delete(
    client: &mut Client,
    share: &mut Share,
    chosen: &[usize],
    random: &mut Random,
    cut: &Cut<'_>,
) -> Result<u64> {
    let (mut items, mut expected) = (Vec::new(), Vec::new());
    for index in chosen {
        let entry = &mut share.entries[*index];
        let versions = entry.versions.len();
        let by_id = versions > 0 && random.below(2) == 0;
        let change = if by_id { Change::DeleteVersion(random.index(versions)) } else { Change::DeleteKey };
        items.push(match change {
            Change::DeleteVersion(version) => json!({"id": entry.versions[version].id}),
            _ => json!({"key": entry.key}),
        });
        expected.push(if by_id || !entry.is_absent() { 204 } else { 404 });
        entry.in_doubt = Some(change);
    }
    let body = json!({"items": items}).to_string();
    let target = format!("/v1/batch/delete?namespace={NAMESPACE}&tenant_id={TENANT}");
    ask(client, share, (chosen, &expected), (&target, body.as_bytes()), cut)
}

/// Asks for what is in doubt of these keys, and takes over what is answered.
fn ask(
    client: &mut Client,
    share: &mut Share,
    (chosen, expected): (&[usize], &[u16]),
    (target, body): (&str, &[u8]),
    cut: &Cut<'_>,
) -> Result<u64> {
    share.batch = chosen.to_vec();
    let running = cut.under_way.begin(Long::Batch);
    let halfway = || running.is_halfway();
    let answer = client.send(Request { method: "POST", target, fields: "", body, halfway: &halfway });
    drop(running);
    if cut.has_begun() {
        return Ok(0);
    }
    let answer = match answer {
        Ok(answer) if answer.status == 200 => answer,
        Ok(answer) if answer.status == 408 || answer.status >= 500 => return Ok(0),
        Ok(answer) => bail!("{target} was answered with status {}: {}", answer.status, text(&answer.body)),
        Err(_) => return Ok(0),
    };
    let mut acknowledged = 0;
    let results = results(&answer.body, chosen.len()).with_context(|| text(&answer.body))?;
    for ((index, expected), (status, id)) in chosen.iter().zip(expected).zip(results) {
        let entry = &mut share.entries[*index];
        if status == *expected {
            entry.happened(&id);
            acknowledged += 1;
        } else if status < 500 && status != 408 {
            bail!("{entry:?} was answered with status {status}, not {expected}");
        }
    }
    share.batch.retain(|index| share.entries[*index].in_doubt.is_some());
    Ok(acknowledged)
}

/// A status for each item, and the id of what it has made.
fn results(lines: &[u8], count: usize) -> Result<Vec<(u16, String)>> {
    let mut results = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let result: Value = serde_json::from_slice(line).context("a result is JSON")?;
        if result["index"].as_u64() != Some(results.len() as u64) {
            bail!("result {} is {result}", results.len());
        }
        let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let id = result["id"].as_str().unwrap_or_default().to_owned();
        let status = status.context("a result has a status")?;
        if matches!(status, 200 | 201) && id.is_empty() {
            bail!("nothing is named by {result}");
        }
        results.push((status, id));
    }
    if results.len() == count { Ok(results) } else { bail!("{count} items have {} results", results.len()) }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned()
}

/// A regular file of a ustar archive (POSIX.1-1988), with a name of at most 100 bytes.
fn append_file(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let mut header = [0; BLOCK_BYTES];
    let size = format!("{:011o}", bytes.len());
    for (at, field) in
        [(0, name), (100, "0000644"), (108, "0000000"), (116, "0000000"), (124, &size), (136, "00000000000")]
    {
        header[at..at + field.len()].copy_from_slice(field.as_bytes());
    }
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(BLOCK_BYTES), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_its_result_in_its_turn() {
        let lines = b"{\"index\":0,\"status\":201,\"id\":\"a\"}\n{\"index\":1,\"status\":404}\n";
        assert_eq!(results(lines, 2).unwrap(), [(201, "a".to_owned()), (404, String::new())]);
        assert!(results(lines, 3).is_err());
        assert!(results(&lines[..lines.len() - 3], 2).is_err());
        assert!(results(b"{\"index\":1,\"status\":204}", 1).is_err());
        assert!(results(b"{\"index\":0,\"status\":201}", 1).is_err());
    }

    #[test]
    fn an_archive_is_one_that_tar_lists() {
        let mut archive = Vec::new();
        append_file(&mut archive, "3/17", b"hello");
        append_file(&mut archive, "3/18", &[7; 513]);
        archive.resize(archive.len() + 2 * BLOCK_BYTES, 0);
        assert_eq!(archive.len(), 512 + 512 + 512 + 1024 + 1024);
        let path = std::env::temp_dir().join(format!("archive-{}", std::process::id()));
        std::fs::write(&path, &archive).unwrap();
        let listed = std::process::Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
        std::fs::remove_file(path).unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.iter().map(|line| line[2]).collect::<Vec<_>>(), ["5", "513"]);
        assert_eq!(lines.iter().filter_map(|line| line.last()).collect::<Vec<_>>(), [&"3/17", &"3/18"]);
    }
}
