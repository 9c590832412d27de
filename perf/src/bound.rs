//! `bound`: a server that receives uploads, hashes them with SHA-256 and keeps nothing.
//!
//! What it does is what no server that checks its uploads can leave out, so that its rate is the most that one core
//! allows: the figure that a store is measured against. It is written plainly, a thread for each connection.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use crate::command_line::BoundOptions;

/// What one read takes at most. The buffer stays in the cache of the core between the read and the hash.
const BUFFER_BYTES: usize = 256 * 1024;
/// A longer head is refused.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves until the process is ended.
pub(crate) fn serve(options: &BoundOptions) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).context("the port is taken")?;
    for stream in listener.incoming() {
        let stream = stream.context("a connection could not be accepted")?;
        thread::spawn(move || {
            if let Err(error) = answer_all(stream) {
                eprintln!("error: {error:#}");
            }
        });
    }
    Ok(())
}

fn answer_all(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        let head_bytes = match find_head_end(&buffer[..filled]) {
            Some(head_bytes) => head_bytes,
            None if filled >= HEAD_BYTES_MAX => bail!("the head of a request is too long"),
            None => {
                let received_bytes = stream.read(&mut buffer[filled..])?;
                if received_bytes == 0 {
                    return Ok(());
                }
                filled += received_bytes;
                continue;
            }
        };
        let mut missing_bytes = content_length(&buffer[..head_bytes]);
        let mut hasher = Sha256::new();
        let mut start = head_bytes;
        loop {
            let here = usize::try_from(missing_bytes).unwrap_or(usize::MAX).min(filled - start);
            hasher.update(&buffer[start..start + here]);
            missing_bytes -= here as u64;
            if missing_bytes == 0 {
                buffer.copy_within(start + here..filled, 0);
                filled -= start + here;
                break;
            }
            filled = stream.read(&mut buffer)?;
            start = 0;
            if filled == 0 {
                bail!("a body ended before its end");
            }
        }
        let digest = hasher.finalize();
        let answer = format!("HTTP/1.1 201 Created\r\nETag: \"{digest:x}\"\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes())?;
    }
}

fn find_head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|position| position + 4)
}

fn content_length(head: &[u8]) -> u64 {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
