//! A large upload beside a run: one after the other over one connection, as fast as the server takes them, until the
//! run has ended. What is under way then is given up.
//!
//! It shares the core of the run, and must not be what delays that. So it has a thread of its own, which the kernel
//! lets run only while the run's has nothing to do (`SCHED_IDLE` of sched(7): a low priority alone would still let it
//! finish its slice of some milliseconds), and it sends in pieces, since no thread is taken off its core in the middle
//! of a system call.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::Notify;

use crate::connection::{Connection, Sent};
use crate::failure::Failure;
use crate::response::HEAD_BYTES_MAX;
use crate::upload::{UploadPlan, Uploader};

/// What one system call sends: it takes some 20 µs.
const PIECE_BYTES: u64 = 64 * 1024;
/// So much of an upload has been sent before it counts as being under way: more than sockets hold.
const UNDER_WAY_BYTES: u64 = 64 << 20;
/// How long that may take, with the room on the disk that is looked for first.
const UNDER_WAY_TIME_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Uploads that go on beside whatever else is done.
#[derive(Debug)]
pub(crate) struct Companion {
    shared: Arc<Shared>,
    thread: JoinHandle<anyhow::Result<()>>,
    /// Since when what is sent is counted, and what had been sent before.
    counted_from: (Instant, u64),
}

#[derive(Debug, Default)]
struct Shared {
    sent_bytes: AtomicU64,
    stop: Notify,
}

impl Companion {
    /// Begins to upload, all under the same number, and waits until that is under way.
    pub(crate) async fn start(address: SocketAddr, plan: UploadPlan, number: u64) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (plan, its_own) = (Arc::new(plan), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("companion".to_owned())
            .spawn(move || upload_until_stopped(address, plan, number, &its_own))
            .context("a thread could not be started")?;
        let mut companion = Self { shared, thread, counted_from: (Instant::now(), 0) };
        let last_moment = Instant::now() + UNDER_WAY_TIME_MAX;
        while companion.sent_bytes() < UNDER_WAY_BYTES && !companion.thread.is_finished() {
            if Instant::now() > last_moment {
                companion.finish()?;
                bail!("nothing of it was taken");
            }
            tokio::time::sleep(PAUSE).await;
        }
        companion.counted_from = (Instant::now(), companion.sent_bytes());
        Ok(companion)
    }

    /// Gives up what is under way, and says how many bytes a second the server has taken. Fails where an upload has.
    pub(crate) fn finish(self) -> anyhow::Result<f64> {
        let (from, sent_before_bytes) = self.counted_from;
        let bytes_per_second = (self.sent_bytes() - sent_before_bytes) as f64 / from.elapsed().as_secs_f64();
        self.shared.stop.notify_one();
        match self.thread.join() {
            Ok(ended) => ended.map(|()| bytes_per_second),
            Err(_) => bail!("its thread failed"),
        }
    }

    fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }
}

fn upload_until_stopped(
    address: SocketAddr,
    plan: Arc<UploadPlan>,
    number: u64,
    shared: &Shared,
) -> anyhow::Result<()> {
    give_way()?;
    crate::runtime()?.block_on(async {
        tokio::select! {
            biased;
            () = shared.stop.notified() => Ok(()),
            ended = upload_on_and_on(address, plan, number, &shared.sent_bytes) => match ended {
                Ok(never) => match never {},
                Err(failure) => bail!("{}: {}", failure.kind, failure.detail),
            },
        }
    })
}

/// Lets this thread run only while no other has anything to do.
fn give_way() -> anyhow::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let output = Command::new("chrt")
        .args(["--idle", "--pid", "0", &thread])
        .output()
        .context("chrt could not be started (apt-get install util-linux)")?;
    ensure!(output.status.success(), "chrt: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

async fn upload_on_and_on(
    address: SocketAddr,
    plan: Arc<UploadPlan>,
    number: u64,
    sent_bytes: &AtomicU64,
) -> Result<Infallible, Failure> {
    let mut connection = Connection::open(address, 0, HEAD_BYTES_MAX).await?;
    let mut uploader = Uploader::new(plan);
    loop {
        if !connection.is_reusable() {
            connection.reopen().await?;
        }
        uploader.next_body().await;
        uploader.begin(number);
        while uploader.remaining_bytes() > 0 {
            let before_bytes = uploader.remaining_bytes();
            // An answer that came before the end of the body is read like any other: it says why.
            if uploader.send(&mut connection, PIECE_BYTES).await? == Sent::AnsweredEarly {
                break;
            }
            sent_bytes.fetch_add(before_bytes - uploader.remaining_bytes(), Ordering::Relaxed);
        }
        connection.receive_success().await?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::body::BodyPattern;
    use crate::template::Template;

    /// A server that takes bodies of a size, so many of them, and answers the next one after its head.
    fn a_server(body_bytes: usize, bodies: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 1 << 20];
            for body in 0..=bodies {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut buffer[..1]).unwrap();
                    head.push(buffer[0]);
                }
                if body == bodies {
                    let _ = stream.write_all(b"HTTP/1.1 507 No room\r\nContent-Length: 4\r\n\r\nfull");
                    break;
                }
                let mut missing = body_bytes;
                while missing > 0 {
                    let room = missing.min(buffer.len());
                    match stream.read(&mut buffer[..room]) {
                        Ok(count) if count > 0 => missing -= count,
                        _ => return,
                    }
                }
                stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
            while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
        });
        address
    }

    fn started(size_bytes: u64, bodies: usize) -> anyhow::Result<Companion> {
        let address = a_server(size_bytes as usize, bodies);
        let upload = Template::new("PUT /{number}", "127.0.0.1", Some(size_bytes)).unwrap();
        let plan = UploadPlan::new(None, upload, BodyPattern::for_run(size_bytes, 1));
        crate::runtime().unwrap().block_on(Companion::start(address, plan, 7))
    }

    #[test]
    fn an_upload_goes_on_until_it_is_given_up() {
        assert!(started(1 << 40, 1).unwrap().finish().is_ok());
    }

    #[test]
    fn another_upload_follows_one_that_has_ended() {
        assert!(started(UNDER_WAY_BYTES / 8, 1_000_000).unwrap().finish().is_ok());
    }

    #[test]
    fn a_refusal_is_told() {
        let companion = started(UNDER_WAY_BYTES / 2, 1).unwrap();
        let refusal = companion.finish().unwrap_err().to_string();
        assert_eq!(refusal, "507: full");
    }
}
