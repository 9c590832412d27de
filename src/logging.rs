//! The log: lines on standard error, as text for people or as JSON for machines. Cores never write them: what they
//! have to tell goes to the log thread through a bounded queue.

use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::api::{AccessLogReader, Wording};
use crate::config::{LogFormat, LogLevel};

/// How many finished lines wait for the log thread at most; more are dropped.
const LINES_QUEUED_MAX: usize = 4096;
/// How often the log thread looks. A core that had to wake it would pay for every line.
const INTERVAL: Duration = Duration::from_millis(20);

/// What ends the log thread, with everything written.
pub struct LogThread {
    handle: JoinHandle<()>,
    lines: LineQueue,
}

/// Makes the log ready for the process: what is told from now on is written by a thread of its own.
///
/// # Errors
/// The thread cannot be started, or there is a log already.
pub fn start(format: LogFormat, level: LogLevel, access: AccessLogReader) -> io::Result<LogThread> {
    let (lines, queue) = sync_channel(LINES_QUEUED_MAX);
    let lines = LineQueue(lines);
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(level))
        .with_ansi(!json && io::stderr().is_terminal())
        .with_writer(BoxMakeWriter::new(lines.clone()));
    let set = if json {
        tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
    } else {
        tracing::subscriber::set_global_default(builder.finish())
    };
    set.map_err(io::Error::other)?;
    let handle =
        thread::Builder::new().name("log".into()).spawn(move || write_lines(&queue, &access, json))?;
    Ok(LogThread { handle, lines })
}

impl LogThread {
    /// Ends the thread once every core has gone, and writes what is left.
    pub fn finish(self) {
        // The empty line is the end: no event has an empty one.
        let _ = self.lines.0.send(Vec::new());
        let _ = self.handle.join();
    }
}

fn write_lines(queue: &Receiver<Vec<u8>>, access: &AccessLogReader, json: bool) {
    let (mut wording, mut output) = (Wording::new(json), Vec::new());
    let mut ended = false;
    while !ended {
        thread::sleep(INTERVAL);
        while let Ok(line) = queue.try_recv() {
            ended |= line.is_empty();
            output.extend_from_slice(&line);
        }
        // After the queue: what was served before the end stands in the log too.
        access.drain(&mut wording, &mut output);
        // There is nobody left to tell that the log cannot be written.
        let _ = io::stderr().lock().write_all(&output);
        output.clear();
    }
}

/// Where events are formatted to: one line of the queue each.
#[derive(Clone)]
struct LineQueue(SyncSender<Vec<u8>>);

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { bytes: Vec::new(), queue: self.0.clone() }
    }
}

struct Line {
    bytes: Vec<u8>,
    queue: SyncSender<Vec<u8>>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            // A full queue means that standard error is stuck; a core must not be stuck with it.
            let _ = self.queue.try_send(std::mem::take(&mut self.bytes));
        }
    }
}
