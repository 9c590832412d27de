//! Which file system a path is on, by the kernel's table of mounts (proc(5), `/proc/self/mountinfo`).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Where a file system is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The directory that it is seen in.
    pub point: PathBuf,
    /// Its type, as mount(8) names it.
    pub file_system: String,
}

/// What is mounted where a path lies. `None` if the kernel does not say.
pub fn mount_of(path: &Path) -> Option<Mount> {
    let path = path.canonicalize().ok()?;
    among(&fs::read(MOUNTS).ok()?, &path)
}

const MOUNTS: &str = "/proc/self/mountinfo";

/// The last of the deepest mounts above the path: it hides those before it.
fn among(table: &[u8], path: &Path) -> Option<Mount> {
    let mounts = table.split(|byte| *byte == b'\n').filter_map(parse);
    mounts.filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count())
}

/// `36 35 98:0 /root /point options [tag…] - type source options`.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = fields.nth(4)?;
    fields.find(|field| field == b"-")?;
    let file_system = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { point: OsString::from_vec(unescape(point)).into(), file_system })
}

/// Spaces and the like stand there as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &behind[3..] } else { behind };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_above_a_path_is_its_own() {
        let table = b"22 1 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
            30 22 0:4 / /data rw - overlay o rw\n\
            31 30 8:2 / /data rw master:1 shared:2 - xfs /dev/b rw\n\
            32 22 0:5 / /mnt/a\\040b\\134 rw - tmpfs t rw\n\
            broken line\n";
        for (path, point, file_system) in [
            ("/", "/", "ext4"),
            ("/database", "/", "ext4"),
            ("/data", "/data", "xfs"),
            ("/data/hot/x", "/data", "xfs"),
            ("/mnt/a b\\/x", "/mnt/a b\\", "tmpfs"),
        ] {
            let mount = among(table, Path::new(path)).unwrap();
            assert_eq!(
                (mount.point.as_path(), mount.file_system.as_str()),
                (Path::new(point), file_system),
                "{path}"
            );
        }
        assert_eq!(among(b"", Path::new("/")), None);
        assert_eq!(mount_of(Path::new("/proc/self")).map(|mount| mount.file_system), Some("proc".into()));
    }
}
