//! `just_storage gc` over and over beside the server: the collector at its fastest, in a build for production too.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::server::Places;

/// How often a running collection is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// Collects until it is told that the end is near.
pub(crate) struct Collecting<'a> {
    binary: &'a Path,
    places: &'a Places,
    ending: AtomicBool,
    process: Mutex<Option<Child>>,
}

impl<'a> Collecting<'a> {
    pub(crate) fn new(binary: &'a Path, places: &'a Places) -> Self {
        Self { binary, places, ending: AtomicBool::new(false), process: Mutex::new(None) }
    }

    /// Starts one collection after the other, and says how many came to their end.
    pub(crate) fn run(&self) -> Result<u64> {
        let mut collections = 0;
        while self.run_once()? {
            collections += 1;
        }
        Ok(collections)
    }

    /// Collects once; `false` if the end was nearer.
    pub(crate) fn run_once(&self) -> Result<bool> {
        if !self.start_one()? {
            return Ok(false);
        }
        let ended = loop {
            match self.look()? {
                Some(ended) => break ended,
                None => std::thread::sleep(LOOK),
            }
        };
        match (ended.success(), self.ending.load(Ordering::SeqCst)) {
            (_, true) => Ok(false),
            (true, false) => Ok(true),
            (false, false) => bail!("the collection beside the server ended with {ended}"),
        }
    }

    /// What becomes of a running collection is not judged any more, and no other is begun.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// `kill -9`
    pub(crate) fn kill(&self) -> Result<()> {
        self.end();
        match self.lock()?.as_mut() {
            Some(process) => process.kill().context("kill the collection"),
            None => Ok(()),
        }
    }

    /// Under the lock from the look at the end to the new process, so that none is begun behind a `kill`.
    fn start_one(&self) -> Result<bool> {
        let mut process = self.lock()?;
        if self.ending.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let mut command = Command::new(self.binary);
        command.arg("gc").args(self.places.arguments()).args(["--gc-grace-secs", "0"]);
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        *process = Some(started.context("start a collection")?);
        Ok(true)
    }

    fn look(&self) -> Result<Option<ExitStatus>> {
        let mut process = self.lock()?;
        let running = process.as_mut().context("a collection was started")?;
        running.try_wait().context("look at the collection")
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Option<Child>>> {
        self.process.lock().map_err(|_| anyhow::anyhow!("a panic held the collection"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_collection_that_fails_is_reported() {
        let places = Places::together("/nowhere".into());
        let error = Collecting::new(Path::new("/bin/false"), &places).run().unwrap_err();
        assert!(error.to_string().contains("ended with"), "{error}");
    }

    #[test]
    fn none_is_begun_when_the_end_is_near() {
        let places = Places::together("/nowhere".into());
        let collecting = Collecting::new(Path::new("/bin/false"), &places);
        collecting.end();
        assert_eq!(collecting.run().unwrap(), 0);
    }

    #[test]
    fn a_killed_collection_is_no_failure() {
        let places = Places::together("/nowhere".into());
        // Takes any arguments, and never ends by itself.
        let program = std::env::temp_dir().join(format!("endless-collection-{}", std::process::id()));
        std::fs::write(&program, "#!/bin/sh\nexec sleep 1000000\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let collecting = Collecting::new(&program, &places);
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| collecting.run());
            while collecting.lock().unwrap().is_none() {
                std::thread::yield_now();
            }
            collecting.kill().unwrap();
            assert_eq!(runner.join().unwrap().unwrap(), 0);
        });
        std::fs::remove_file(program).unwrap();
    }
}
