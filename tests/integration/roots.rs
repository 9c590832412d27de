//! Storage roots know whose they are: one that is missing, strange or exchanged stops the start, instead of looking
//! like the loss of everything on it. A refused start loses nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::server::{Refusal, SCOPE, Server, refused, serve_command};

const IDENTITY: &str = "just_storage.root";

/// A directory with one object in each root, and no server on it.
fn filled() -> Arc<TempDir> {
    let server = Server::start();
    for class in ["hot", "cold"] {
        let target = format!("/v1/objects?{SCOPE}&storage_class={class}");
        assert_eq!(server.request("POST", &target, &[], class.as_bytes()).status, 201);
    }
    let directory = server.directory();
    assert_eq!(server.stop().0.code(), Some(0));
    directory
}

fn refusal(directory: &Path) -> Refusal {
    let refusal = refused(serve_command(directory, &[]));
    assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
    assert!(!refusal.stderr.contains("listening"), "{}", refusal.stderr);
    refusal
}

fn assert_serves_both(directory: &Arc<TempDir>) {
    let server = Server::start_on(directory, &[]);
    let objects = server.list(SCOPE);
    assert_eq!(objects.len(), 2);
    for object in objects {
        let target = format!("/v1/objects/{}", object["id"].as_str().unwrap());
        assert_eq!(server.get(&target).body, object["storage_class"].as_str().unwrap().as_bytes());
    }
}

#[test]
fn a_root_that_has_lost_its_identity_is_refused() {
    let directory = filled();
    for class in ["hot", "cold"] {
        let (identity, aside) = (directory.path().join(class).join(IDENTITY), directory.path().join("aside"));
        fs::rename(&identity, &aside).unwrap();
        let stderr = refusal(directory.path()).stderr;
        let sentence =
            format!("the {class} storage root {} is empty", directory.path().join(class).display());
        assert!(stderr.contains(&sentence) && stderr.contains("is its disk mounted?"), "{stderr}");
        assert!(!identity.exists(), "it is not claimed anew");
        fs::rename(&aside, &identity).unwrap();
    }
    assert_serves_both(&directory);
}

#[test]
fn a_root_whose_disk_is_not_mounted_is_refused() {
    let directory = filled();
    let (root, aside) = (directory.path().join("hot"), directory.path().join("aside"));
    fs::rename(&root, &aside).unwrap();
    // The mount point itself, and not even that.
    for make in [true, false] {
        if make {
            fs::create_dir(&root).unwrap();
        }
        let stderr = refusal(directory.path()).stderr;
        assert!(stderr.contains("the hot storage root"), "{stderr}");
        fs::remove_dir_all(&root).unwrap();
    }
    fs::rename(&aside, &root).unwrap();
    assert_serves_both(&directory);
}

#[test]
fn a_root_of_another_database_is_refused() {
    let (directory, other) = (filled(), filled());
    let (own, strange) = (directory.path().join("hot"), other.path().join("hot"));
    let aside = directory.path().join("aside");
    fs::rename(&own, &aside).unwrap();
    fs::rename(&strange, &own).unwrap();
    let stderr = refusal(directory.path()).stderr;
    let sentence = format!("the hot storage root {} belongs to another database", own.display());
    assert!(stderr.contains(&sentence), "{stderr}");
    fs::rename(&own, &strange).unwrap();
    fs::rename(&aside, &own).unwrap();
    assert_serves_both(&directory);
    assert_serves_both(&other);
}

#[test]
fn roots_that_were_exchanged_are_refused() {
    let directory = filled();
    let flag = |root: &str| directory.path().join(root).to_str().unwrap().to_owned();
    let (hot, cold) = (flag("hot"), flag("cold"));
    let flags = ["--hot-storage-root", cold.as_str(), "--cold-storage-root", hot.as_str()];
    let refusal = refused(serve_command(directory.path(), &flags));
    assert_eq!(refusal.code, Some(1), "{}", refusal.stderr);
    assert!(refusal.stderr.contains("belongs to another database"), "{}", refusal.stderr);
    assert_serves_both(&directory);
}

#[test]
fn roots_without_the_database_that_knows_them_are_refused() {
    let directory = filled();
    let (own, aside) = (directory.path().join("metadata.db"), directory.path().join("aside.db"));
    fs::rename(&own, &aside).unwrap();
    let stderr = refusal(directory.path()).stderr;
    assert!(stderr.contains("belongs to another database"), "{stderr}");
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        let _ = fs::remove_file(directory.path().join(name));
    }
    fs::rename(&aside, &own).unwrap();
    assert_serves_both(&directory);
}

#[test]
fn an_identity_that_is_none_is_refused() {
    let directory = filled();
    let identity = directory.path().join("cold").join(IDENTITY);
    let right = fs::read(&identity).unwrap();
    for wrong in [&b""[..], b"\n", b"something else", b"\xff\xfe", &[b'0'; 5000]] {
        fs::write(&identity, wrong).unwrap();
        let stderr = refusal(directory.path()).stderr;
        let root = format!("cold storage root {}", directory.path().join("cold").display());
        assert!(stderr.contains(&root), "{stderr}");
        assert_eq!(fs::read(&identity).unwrap(), wrong, "it is left as it was");
    }
    fs::write(&identity, right).unwrap();
    assert_serves_both(&directory);
}

#[test]
fn roots_may_lie_anywhere_and_move_when_told() {
    let directory = filled();
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    let copied =
        std::process::Command::new("cp").arg("-a").arg(directory.path().join("hot")).arg(&moved).status();
    assert!(copied.unwrap().success());
    fs::remove_dir_all(directory.path().join("hot")).unwrap();
    let server = Server::start_on(&directory, &["--hot-storage-root", moved.to_str().unwrap()]);
    for object in server.list(SCOPE) {
        let target = format!("/v1/objects/{}", object["id"].as_str().unwrap());
        assert_eq!(server.get(&target).body, object["storage_class"].as_str().unwrap().as_bytes());
    }
    assert!(!directory.path().join("hot").exists());
}
