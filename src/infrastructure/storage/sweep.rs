//! Finding what dead process instances left in the roots. Which of it is garbage is for the metadata to say.
//! Everything here blocks.
//!
//! Only names that carry the id of an instance that is known to be dead are looked at: age says nothing, and a
//! file that this program did not name is nobody's garbage.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::blob_file::{remove_blob, sync_shard};
use super::root::{StorageRoot, sync_directory};
use crate::domain::entities::BlobLocation;
use crate::domain::value_objects::{ContentHash, InstanceId, Place};

/// A blob file that was found by its name.
pub type BlobFile = BlobLocation;

/// What lies in one of a root's 256 directories.
#[derive(Debug, Default)]
pub struct ShardListing {
    /// Blob files.
    pub files: Vec<BlobFile>,
    /// Names that this program did not give.
    pub strange: Vec<OsString>,
}

/// Lists one of a root's 256 directories.
///
/// # Errors
/// The directory cannot be listed: then nothing may be removed.
pub fn list_shard(root: &StorageRoot, shard: u8) -> io::Result<ShardListing> {
    let mut listing = ShardListing::default();
    for entry in fs::read_dir(root.blobs_path().join(format!("{shard:02x}")))? {
        let name = entry?.file_name();
        match name.to_str().and_then(parse_blob_name) {
            // A name in the directory of another hash is not where anybody looks for it.
            Some((content_hash, place)) if content_hash.as_bytes()[0] == shard => {
                listing.files.push(BlobLocation { storage_class: root.class(), content_hash, place });
            }
            _ => listing.strange.push(name),
        }
    }
    Ok(listing)
}

/// The blob files in one of a root's 256 directories that dead instances wrote.
///
/// # Errors
/// The directory cannot be listed: then nothing may be removed.
pub fn blob_files_of(root: &StorageRoot, shard: u8, dead: &HashSet<InstanceId>) -> io::Result<Vec<BlobFile>> {
    let files = list_shard(root, shard)?.files;
    Ok(files
        .into_iter()
        .filter(|file| file.place.file_instance().is_some_and(|instance| dead.contains(&instance)))
        .collect())
}

/// `<64 hexadecimal digits>-<place>`, as it is written.
fn parse_blob_name(name: &str) -> Option<(ContentHash, Place)> {
    let (hash, place) = name.split_at_checked(ContentHash::HEX_LENGTH)?;
    let place = Place::parse(place.strip_prefix('-')?).ok().filter(|place| place.pack().is_none())?;
    Some((ContentHash::from_hex(hash).ok()?, place))
}

/// Removes blob files that no metadata names, durably: whoever knew of them may forget them then. If a power cut
/// brought such a file back after that, nothing would ever find it.
///
/// # Errors
/// The first file that cannot be removed, or the first directory that cannot be synced.
pub fn remove_blob_files(root: &StorageRoot, files: &[BlobFile]) -> io::Result<()> {
    files.iter().try_for_each(|file| remove_blob(root, file))?;
    let mut one_of_each_shard: Vec<_> = files.iter().collect();
    one_of_each_shard.sort_by_key(|file| file.content_hash.as_bytes()[0]);
    one_of_each_shard.dedup_by_key(|file| file.content_hash.as_bytes()[0]);
    one_of_each_shard.into_iter().try_for_each(|file| sync_shard(root, file))
}

/// The named temporary files of dead instances.
///
/// # Errors
/// The directory cannot be listed.
pub fn temporary_files_of(root: &StorageRoot, dead: &HashSet<InstanceId>) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.temporary_path())? {
        let entry = entry?;
        let name = entry.file_name();
        let place = name.to_str().and_then(|name| Place::parse(name).ok());
        if place.and_then(|place| place.file_instance()).is_some_and(|instance| dead.contains(&instance)) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes the named temporary files of dead instances, durably, and says how many there were.
///
/// # Errors
/// The directory cannot be listed or synced, or a file cannot be removed.
pub fn remove_temporary_files_of(root: &StorageRoot, dead: &HashSet<InstanceId>) -> io::Result<usize> {
    let files = temporary_files_of(root, dead)?;
    files.iter().try_for_each(fs::remove_file)?;
    if !files.is_empty() {
        sync_directory(&root.temporary_path())?;
    }
    Ok(files.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::value_objects::StorageClass;

    #[test]
    fn only_files_of_dead_instances_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = StorageRoot::open(StorageClass::Hot, directory.path()).unwrap();
        let (dead, alive) = (InstanceId::generate(), InstanceId::generate());
        let location = |instance| BlobLocation {
            storage_class: StorageClass::Hot,
            content_hash: ContentHash::from_bytes([1; 32]),
            place: Place::File { instance, number: 3 },
        };
        for instance in [dead, alive] {
            fs::write(root.blob_path(&location(instance)), "x").unwrap();
            fs::write(root.temporary_file_path(location(instance).place), "x").unwrap();
        }
        fs::write(root.blobs_path().join("01/README"), "not ours").unwrap();
        let found = blob_files_of(&root, 1, &HashSet::from([dead])).unwrap();
        assert_eq!(found, [location(dead)]);
        remove_blob_files(&root, &found).unwrap();
        assert_eq!(remove_temporary_files_of(&root, &HashSet::from([dead])).unwrap(), 1);
        assert!(root.blob_path(&location(alive)).exists());
        assert!(root.blobs_path().join("01/README").exists());
        assert!(root.temporary_file_path(location(alive).place).exists());
        assert!(blob_files_of(&root, 1, &HashSet::from([dead])).unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_cannot_be_listed_fails_the_sweep() {
        let directory = tempfile::tempdir().unwrap();
        let root = StorageRoot::open(StorageClass::Hot, directory.path()).unwrap();
        fs::remove_dir(root.blobs_path().join("07")).unwrap();
        assert!(blob_files_of(&root, 7, &HashSet::new()).is_err());
        assert!(blob_files_of(&root, 8, &HashSet::new()).is_ok());
    }
}
