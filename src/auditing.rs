//! The audit thread: takes what cores have to tell and appends it to the file of the audit log. A thread of its own, so
//! that neither a stuck standard error keeps lines from the file, nor a stuck file keeps the log from its reader.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::api::{AuditLog, AuditReader};
use crate::infrastructure::audit_file::{AuditFile, AuditFileError};
use crate::maintenance::with_causes;

/// How often the thread looks. A core that had to wake it would pay for every line.
const INTERVAL: Duration = Duration::from_millis(20);
/// How often it looks whether the file has been moved away.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);
/// How much is written at once, or a line more.
const BATCH_BYTES: usize = 256 * 1024;
/// For how long it goes on trying to write the last lines when the server ends.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Why there is no audit log.
#[derive(Debug, Error)]
pub enum AuditStartError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] AuditFileError),
    /// The thread cannot be made.
    #[error("cannot start the audit thread")]
    Thread(#[source] std::io::Error),
}

/// What ends the audit thread, with everything written.
#[derive(Debug)]
pub struct AuditThread {
    handle: JoinHandle<()>,
    ending: Arc<AtomicBool>,
}

/// Opens the file, if one is named, and starts to append to it what is told.
///
/// # Errors
/// [`AuditStartError`].
pub fn start(path: Option<&Path>) -> Result<(AuditLog, Option<AuditThread>), AuditStartError> {
    let Some(path) = path else { return Ok((AuditLog::off(), None)) };
    let file = AuditFile::open(path)?;
    let (log, reader) = AuditLog::new();
    let ending = Arc::new(AtomicBool::new(false));
    let told_to_end = ending.clone();
    let mut writer =
        Writer { file, followed: Instant::now(), reader, batch: Batch::default(), failing: false };
    let thread = thread::Builder::new().name("audit".into()).spawn(move || writer.run(&told_to_end));
    let handle = thread.map_err(AuditStartError::Thread)?;
    Ok((log, Some(AuditThread { handle, ending })))
}

impl AuditThread {
    /// Ends the thread once every core has gone, and writes what is left.
    pub fn finish(self) {
        self.ending.store(true, Ordering::Release);
        let _ = self.handle.join();
    }
}

struct Writer {
    file: AuditFile,
    /// When it was last looked whether the file is where it was.
    followed: Instant,
    reader: AuditReader,
    batch: Batch,
    failing: bool,
}

/// Lines that were taken from the queue and are not written yet.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    weight_bytes: usize,
}

impl Writer {
    fn run(&mut self, ending: &AtomicBool) {
        let mut ends_at = None;
        loop {
            // Before the look into the queue: what was handed over before the end is written too.
            if ending.load(Ordering::Acquire) {
                ends_at.get_or_insert_with(|| Instant::now() + END_LIMIT);
            }
            let written = self.write_waiting();
            self.tell(written);
            match ends_at {
                Some(_) if !self.failing => return,
                Some(limit) if Instant::now() >= limit => {
                    return tracing::error!(
                        "the last lines of the audit log are lost: they cannot be written"
                    );
                }
                _ => thread::sleep(INTERVAL),
            }
        }
    }

    /// Writes all that waits. A batch that cannot be written is kept, and tried again.
    fn write_waiting(&mut self) -> Result<(), AuditFileError> {
        loop {
            if self.failing || self.followed.elapsed() >= FOLLOW_INTERVAL {
                self.file.follow()?;
                self.followed = Instant::now();
            }
            if self.batch.lines.is_empty() {
                self.batch.weight_bytes = self.reader.take(BATCH_BYTES, &mut self.batch.lines);
            }
            if self.batch.lines.is_empty() {
                return Ok(());
            }
            self.file.append(&self.batch.lines)?;
            self.reader.written(self.batch.weight_bytes);
            self.batch.lines.clear();
        }
    }

    /// Lets cores know whether lines can be written, and people where that has changed.
    fn tell(&mut self, written: Result<(), AuditFileError>) {
        let failing = written.is_err();
        self.reader.set_writable(!failing);
        match written {
            Err(error) if !self.failing => {
                let error = with_causes(&error);
                tracing::error!(error, "the audit log cannot be written; no change is made until it can");
            }
            Ok(()) if self.failing => tracing::info!("the audit log is written again"),
            _ => {}
        }
        self.failing = failing;
    }
}
