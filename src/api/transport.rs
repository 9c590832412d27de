//! One connection's bytes: what has come and is not used yet, what waits to be sent, and how long either may take.
//! Answers to requests that came together leave together: what is to be sent goes out before anything is waited for.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::connection_table::Watch;
use super::output_pool::OutputPool;
use super::stretch_turns::STRETCH_BYTES_MAX;
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::data_plane::runtime::{DataFile, FileSender, Stream};
use crate::infrastructure::data_plane::tls::TlsFailure;

/// What a connection holds while it waits for a request: a head and a body of 4 KiB, so that both come with one read.
/// Memory that nothing was received into costs nothing.
const INPUT_BYTES: usize = 8 * 1024;

/// One connection's two directions.
pub(super) struct Transport {
    stream: Stream,
    watch: Rc<Watch>,
    input: Vec<u8>,
    /// How much of the input is used already.
    used: usize,
    /// Taken from the pool for what is to be sent, and given back when it has been.
    output: Vec<u8>,
    outputs: Rc<OutputPool>,
}

impl Transport {
    pub(super) fn new(stream: Stream, watch: Rc<Watch>, outputs: Rc<OutputPool>) -> Self {
        let input = Vec::with_capacity(input_bytes(&stream));
        Self { stream, watch, input, used: 0, output: Vec::new(), outputs }
    }

    /// Agrees on keys with the client, where the listener speaks TLS.
    pub(super) async fn handshake(&mut self) -> Result<(), TlsFailure> {
        if !self.stream.is_encrypted() {
            return Ok(());
        }
        self.watch.handshake();
        self.stream.handshake().await
    }

    /// Whether the bytes of a blob have to pass through here.
    pub(super) fn is_encrypted(&self) -> bool {
        self.stream.is_encrypted()
    }

    /// Tells the client that all was sent, before the connection is closed.
    pub(super) fn say_end(&mut self) {
        self.stream.say_end();
    }

    /// Who has made the connection.
    pub(super) fn peer(&self) -> SocketAddr {
        self.stream.peer()
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What has come and is not used yet.
    pub(super) fn input(&self) -> &[u8] {
        &self.input[self.used..]
    }

    /// Uses up the first `count` bytes of the input.
    pub(super) fn consume(&mut self, count: usize) {
        self.used += count;
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
        }
    }

    /// Waits for more input, and says how much came; 0 is the end.
    pub(super) async fn receive(&mut self) -> io::Result<usize> {
        self.flush().await?;
        self.input.drain(..self.used);
        self.used = 0;
        let held = input_bytes(&self.stream);
        if self.input.is_empty() && self.input.capacity() > 2 * held {
            // A large head has passed; the wait for the next one holds no more than any other.
            self.input = Vec::with_capacity(held);
        }
        if self.input.len() == self.input.capacity() {
            self.input.reserve(held.max(self.input.len()));
        }
        let (result, input) = self.stream.read(std::mem::take(&mut self.input), usize::MAX).await;
        self.input = input;
        result
    }

    /// Receives straight into a block, of which the input holds nothing. `None` is nothing within `patience`.
    pub(super) async fn receive_into(
        &mut self,
        block: Block,
        bytes_max: usize,
        patience: Option<Duration>,
    ) -> (io::Result<Option<usize>>, Block) {
        if let Err(error) = self.flush().await {
            return (Err(error), block);
        }
        match patience {
            Some(patience) => self.stream.read_block_within(block, bytes_max, patience).await,
            None => {
                let (result, block) = self.stream.read_block(block, bytes_max).await;
                (result.map(Some), block)
            }
        }
    }

    /// What will be sent next, to be appended to.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = self.outputs.take();
        }
        &mut self.output
    }

    /// How much waits to be sent.
    pub(super) fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Lets someone else append to the output and give it back.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    pub(super) fn give_back_output(&mut self, output: Vec<u8>) {
        self.output = output;
    }

    /// Lets everything else on the core have its turn.
    pub(super) async fn take_turns(&mut self) -> io::Result<()> {
        self.watch.send();
        let waited = self.stream.take_turns().await;
        self.watch.work();
        waited
    }

    /// Sends all that waits to be sent.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.send_output().await?;
        if self.output.capacity() > 0 {
            self.outputs.give_back(std::mem::take(&mut self.output));
        }
        Ok(())
    }

    /// As [`flush`](Self::flush), and keeps the memory for more of as much.
    pub(super) async fn send_output(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.output.len() || self.stream.has_unsent() {
            self.watch.send();
            if self.stream.has_unsent() {
                self.stream.send_rest().await?;
                continue;
            }
            let (result, output) = self.stream.write(std::mem::take(&mut self.output), sent).await;
            self.output = output;
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        Ok(())
    }

    /// Sends a block's content, after all that waits to be sent; `in_turns`, where brief requests are served on the core, with
    /// those that move much.
    pub(super) async fn send_block(&mut self, mut block: Block, in_turns: bool) -> (io::Result<()>, Block) {
        if let Err(error) = self.flush().await {
            return (Err(error), block);
        }
        let mut sent = 0;
        while sent < block.len() || self.stream.has_unsent() {
            self.watch.send();
            if self.stream.has_unsent() {
                match self.stream.send_rest().await {
                    Ok(()) => continue,
                    Err(error) => return (Err(error), block),
                }
            }
            if in_turns && let Err(error) = self.turn_to_send().await {
                return (Err(error), block);
            }
            let range = sent..block.len().min(sent + STRETCH_BYTES_MAX);
            let (result, back) = self.stream.write_block(block, range).await;
            block = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), block),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), block),
            }
        }
        (Ok(()), block)
    }

    /// Where brief requests are served on the core, waits for a turn to send a stretch, but for the client first, who would
    /// otherwise let others wait for nothing.
    async fn turn_to_send(&self) -> io::Result<()> {
        if self.watch.company().expects_brief() {
            self.stream.take_turns().await?;
            self.watch.company().turn().await;
        }
        Ok(())
    }

    /// Sends all that waits to be sent, and gets ready to send from files behind it.
    pub(super) async fn send_files(&mut self) -> io::Result<FileTransfer<'_>> {
        let sent = self.stream.send_ahead(&self.output);
        self.output.drain(..sent);
        self.flush().await?;
        Ok(FileTransfer { sender: self.stream.file_sender()?, watch: &self.watch })
    }

    /// The connection itself, of which nothing is wanted any more.
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Keeps a connection of which no request is read any more, while its client takes what the kernel holds for it. The
    /// kernel alone would offer it for as long as the client likes.
    pub(super) async fn see_off(&mut self) {
        if self.flush().await.is_err() || !self.stream.is_held_up() {
            return;
        }
        self.stream.finish_sending();
        self.watch.idle();
        self.drop_input(usize::MAX).await;
    }

    /// Says that nothing more will be sent, and drops what still comes, so that a client that sends without waiting
    /// reads the answer instead of a reset (RFC 9112 §9.6).
    pub(super) async fn linger(&mut self, bytes_max: usize, limit: Duration) {
        if self.flush().await.is_err() {
            return;
        }
        self.stream.finish_sending();
        self.watch.drain(limit);
        self.drop_input(bytes_max).await;
    }

    /// Drops what comes, up to so much, until the end.
    async fn drop_input(&mut self, bytes_max: usize) {
        let mut dropped = 0;
        while dropped < bytes_max {
            self.used = self.input.len();
            match self.receive().await {
                Ok(0) | Err(_) => return,
                Ok(count) => dropped += count,
            }
        }
    }
}

/// What a connection holds to receive into while it waits. TLS receives into memory that it shares, and takes what room
/// it needs once something has come.
fn input_bytes(stream: &Stream) -> usize {
    if stream.is_encrypted() { 0 } else { INPUT_BYTES }
}

/// A connection while it sends from files.
pub(super) struct FileTransfer<'t> {
    sender: FileSender<'t>,
    watch: &'t Watch,
}

impl FileTransfer<'_> {
    /// Waits until the client has taken enough for more to be sent.
    pub(super) async fn room(&self) -> io::Result<()> {
        self.watch.send();
        self.sender.room().await
    }

    /// How much of what there is room for is to be sent, of up to `bytes_max`. Where brief requests are served on the core,
    /// this waits for a turn to do so.
    pub(super) async fn stretch(&self, bytes_max: u64) -> u64 {
        match self.watch.company().turn().await {
            true => bytes_max.min(STRETCH_BYTES_MAX as u64),
            false => bytes_max,
        }
    }

    /// Sends at once what there is room for of a part of a file that is in memory, and says how much that was.
    pub(super) fn send(&self, file: &DataFile, offset: u64, bytes_max: usize) -> io::Result<usize> {
        self.sender.send(file, offset, bytes_max)
    }
}
