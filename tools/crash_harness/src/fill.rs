//! Many small objects that are there from the beginning, so that a start has something to find its way through.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};

use crate::client::{Client, TENANT};
use crate::content::Content;
use crate::random::Random;

/// Where they are.
pub(crate) const NAMESPACE: &str = "fill";
/// Apart from all other contents.
const SEED: u64 = 0xF111 << 32;
/// How many are read after each cut.
const SAMPLE: u64 = 300;

/// So many objects, `0` and up by key, that nobody changes.
pub(crate) struct Filling {
    objects: u64,
}

impl Filling {
    /// Puts them, over several connections at once.
    pub(crate) fn put(port: u16, objects: u64, clients: u32) -> Result<Self> {
        let next = AtomicU64::new(0);
        let put_some = || {
            let mut client = Client::new(port);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return Ok(());
                }
                let answer = client.request("PUT", &target(number), &content(number).bytes())?;
                if answer.status != 201 {
                    bail!("object {number} was answered with status {}", answer.status);
                }
            }
        };
        std::thread::scope(|scope| {
            let putters: Vec<_> = (0..clients).map(|_| scope.spawn(put_some)).collect();
            putters
                .into_iter()
                .try_for_each(|putter| putter.join().unwrap_or_else(|_| bail!("a client panicked")))
        })?;
        Ok(Self { objects })
    }

    /// Reads some.
    pub(crate) fn check_some(&self, port: u16, random: &mut Random) -> Result<()> {
        let mut client = Client::new(port);
        let count = SAMPLE.min(self.objects);
        (0..count).try_for_each(|_| check_one(&mut client, random.below(self.objects)))
    }

    /// Reads every one.
    pub(crate) fn check_all(&self, port: u16) -> Result<()> {
        let mut client = Client::new(port);
        (0..self.objects).try_for_each(|number| check_one(&mut client, number))
    }
}

fn check_one(client: &mut Client, number: u64) -> Result<()> {
    let answer = client.get(&target(number))?;
    if answer.status == 200 && answer.body == content(number).bytes() {
        return Ok(());
    }
    bail!("object {number} of the filling is {} bytes with status {}", answer.body.len(), answer.status)
}

fn target(number: u64) -> String {
    format!("/v1/keys/{NAMESPACE}/{TENANT}/{number}")
}

fn content(number: u64) -> Content {
    Content { seed: SEED + number, length: 100 + (number % 900) as usize }
}
