//! Files of this machine, and the keys that they are stored under.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::address::Prefix;
use super::destination::is_partial;
use super::errors::ClientError;
use crate::domain::entities::KeyPath;

/// A file to be stored.
#[derive(Debug, Clone)]
pub(super) struct LocalFile {
    pub(super) path: PathBuf,
    pub(super) target: KeyPath,
    /// When it was found; it is asked again when it is sent.
    pub(super) size_bytes: u64,
}

/// All files below a directory, each under its path from there, but for what is left of files that were being fetched. Links
/// are followed, as the names that they are; one that leads back to where it stands is an error, and so is anything that is
/// neither a file nor a directory.
///
/// # Errors
/// [`ClientError::Name`] for the first file that cannot be a key, before anything is sent; [`ClientError::Files`].
pub(super) fn files_below(directory: &Path, prefix: &Prefix) -> Result<Vec<LocalFile>, ClientError> {
    let mut walk = Walk { prefix, files: Vec::new(), above: Vec::new() };
    let metadata = fs::metadata(directory).map_err(ClientError::files("read", directory))?;
    walk.enter(directory, "", &metadata)?;
    Ok(walk.files)
}

struct Walk<'a> {
    prefix: &'a Prefix,
    files: Vec<LocalFile>,
    /// Device and inode of every directory that is being walked, to find a way that leads in a circle.
    above: Vec<(u64, u64)>,
}

impl Walk<'_> {
    /// `name` is the directory's path from the beginning, with a slash at its end unless it is the beginning.
    fn enter(&mut self, directory: &Path, name: &str, metadata: &Metadata) -> Result<(), ClientError> {
        let identity = (metadata.dev(), metadata.ino());
        if self.above.contains(&identity) {
            let reason = "it is a link to a directory that it lies in".to_owned();
            return Err(ClientError::Name { path: directory.to_owned(), reason });
        }
        self.above.push(identity);
        let failed = || ClientError::files("read", directory);
        let entries = fs::read_dir(directory).map_err(failed())?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(failed())?.path());
        }
        // So that a run does everything in the order of the one before.
        paths.sort_unstable();
        for path in paths {
            self.visit(path, name)?;
        }
        self.above.pop();
        Ok(())
    }

    fn visit(&mut self, path: PathBuf, parent: &str) -> Result<(), ClientError> {
        let own_name = utf8_name(&path)?;
        let (name, is_partial) = (format!("{parent}{own_name}"), is_partial(own_name));
        let metadata = fs::metadata(&path).map_err(ClientError::files("read", &path))?;
        if metadata.is_dir() {
            return self.enter(&path, &format!("{name}/"), &metadata);
        }
        if !is_partial {
            self.files.push(file(path, &metadata, self.prefix, &name)?);
        }
        Ok(())
    }
}

/// The file as what is called `name` below `prefix`.
pub(super) fn file(
    path: PathBuf,
    metadata: &Metadata,
    prefix: &Prefix,
    name: &str,
) -> Result<LocalFile, ClientError> {
    if !metadata.is_file() {
        let reason = "it is neither a file nor a directory".to_owned();
        return Err(ClientError::Name { path, reason });
    }
    match prefix.join(name) {
        Ok(target) => Ok(LocalFile { path, target, size_bytes: metadata.len() }),
        Err(reason) => Err(ClientError::Name { path, reason }),
    }
}

/// The last part of a path, which has to be text to be part of a key.
pub(super) fn utf8_name(path: &Path) -> Result<&str, ClientError> {
    let name = path.file_name().ok_or_else(|| ClientError::Name {
        path: path.to_owned(),
        reason: "it has no name of its own; end the address with a key".to_owned(),
    })?;
    name.to_str().ok_or_else(|| ClientError::Name {
        path: path.to_owned(),
        reason: "its name is not UTF-8, and a key is".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::address::Address;
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let Ok(Address::Below(prefix)) = text.parse() else { panic!("a prefix") };
        prefix
    }

    #[test]
    fn files_are_found_in_order_and_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        // The last one is no file of its own.
        let partial = "b/.just_storage-0123456789abcdef.partial";
        for (name, bytes) in [("z", "1"), ("a b", ""), ("b/c/%+#?ä", "123"), (partial, "12")] {
            fs::write(root.join(name), bytes).unwrap();
        }
        symlink("b/c", root.join("link")).unwrap();
        let found = files_below(root, &prefix("models/acme/p/")).unwrap();
        let found: Vec<_> = found.iter().map(|file| (file.target.key.as_str(), file.size_bytes)).collect();
        assert_eq!(found, [("p/a b", 0), ("p/b/c/%+#?ä", 3), ("p/link/%+#?ä", 3), ("p/z", 1)]);
    }

    #[test]
    fn what_cannot_be_a_key_is_named() {
        use std::os::unix::ffi::OsStrExt as _;
        for (name, words) in [(&b"a\xff"[..], "UTF-8"), (b"a\nb", "control"), (&[b'k'; 250], "1024")] {
            let directory = tempfile::tempdir().unwrap();
            let name = std::ffi::OsStr::from_bytes(name);
            let mut path = directory.path().to_owned();
            let depth = if words == "1024" { 4 } else { 0 };
            path.extend((0..depth).map(|_| name));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(name), "").unwrap();
            let error = files_below(directory.path(), &prefix("models/acme")).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        symlink(".", directory.path().join("circle")).unwrap();
        let error = files_below(directory.path(), &prefix("models/acme")).unwrap_err().to_string();
        assert!(error.contains("circle"), "{error}");
    }
}
