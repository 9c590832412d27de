//! The hashes of what uploads receive, on the core that receives it: in slices, between which others have their turn, and
//! of two uploads at once where two have bytes to hash. That takes half of the time.
//!
//! ```text
//! an upload reads ──► its bytes wait, and others have their turn ──► a slice of them and a slice of another's ──► …
//! ```
//! Whoever's turn it is hashes for both, so that nobody waits for a partner who does not come.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Instant;

use paired_sha256::{Sha256, update_both};

use crate::application::ports::ByteSource;
use crate::infrastructure::data_plane::buffers::Block;
use crate::infrastructure::metrics::{Phase, note_since};

/// How much of a message is hashed at a stretch: it holds the core for under 100 µs, alone or beside another.
pub(super) const HASH_BYTES_MAX: usize = 128 * 1024;
/// What is shorter is hashed at once: to wait for another would take longer than it saves.
const WAIT_BYTES_MIN: usize = 32 * 1024;

/// What uploads of one core have to hash.
#[derive(Default)]
pub struct Hashing {
    /// Each belongs to the upload that waits for it, and is gone with it.
    waiting: RefCell<Vec<Weak<RefCell<Work>>>>,
}

/// Bytes on their way into a hash.
struct Work {
    hasher: Sha256,
    block: Block,
    /// The part of the block that is to be hashed still.
    left: Range<usize>,
}

impl Work {
    /// The next bytes, of which there are so many.
    fn next(&mut self, count: usize) -> (&mut Sha256, &[u8]) {
        let start = self.left.start;
        self.left.start += count;
        (&mut self.hasher, &self.block.bytes()[start..start + count])
    }
}

impl Hashing {
    /// Takes a part of a block into a hash. Others have their turn meanwhile, if it is long; the two come back when it is
    /// done.
    pub(super) async fn hash(
        &self,
        mut hasher: Sha256,
        block: Block,
        part: Range<usize>,
        source: &mut impl ByteSource<Block>,
    ) -> (Sha256, Block) {
        let is_alone = self.partner_of(None).is_none();
        if is_alone && part.len() < WAIT_BYTES_MIN {
            let started = Instant::now();
            hasher.update(&block.bytes()[part]);
            note_since(Phase::Hash, started);
            return (hasher, block);
        }
        let work = Rc::new(RefCell::new(Work { hasher, block, left: part }));
        self.waiting.borrow_mut().push(Rc::downgrade(&work));
        if is_alone {
            source.take_turns().await;
        }
        // Whoever came meanwhile may have hashed all of it.
        while !work.borrow().left.is_empty() {
            self.hash_slice(&work);
            if work.borrow().left.is_empty() {
                break;
            }
            source.take_turns().await;
        }
        match Rc::into_inner(work) {
            Some(work) => {
                let Work { hasher, block, .. } = work.into_inner();
                (hasher, block)
            }
            None => crate::invariant::broken("what is hashed belongs to one upload"),
        }
    }

    /// Hashes a slice, and as much of others, one after the other. Where there is none, it is hashed alone; where there is
    /// none any more, the rest waits for one.
    fn hash_slice(&self, work: &Rc<RefCell<Work>>) {
        let started = Instant::now();
        let slice_bytes = work.borrow().left.len().min(HASH_BYTES_MAX);
        let mut hashed_bytes = 0;
        while hashed_bytes < slice_bytes
            && let Some(partner) = self.partner_of(Some(work))
        {
            let (mut work, mut partner) = (work.borrow_mut(), partner.borrow_mut());
            let count = (slice_bytes - hashed_bytes).min(partner.left.len());
            update_both(work.next(count), partner.next(count));
            hashed_bytes += count;
        }
        if hashed_bytes == 0 {
            let mut work = work.borrow_mut();
            let (hasher, slice) = work.next(slice_bytes);
            hasher.update(slice);
        }
        note_since(Phase::Hash, started);
    }

    /// Whoever has waited longest. What is done or given up is forgotten on the way.
    fn partner_of(&self, work: Option<&Rc<RefCell<Work>>>) -> Option<Rc<RefCell<Work>>> {
        let mut partner = None;
        self.waiting.borrow_mut().retain(|waiting| {
            let Some(waiting) = waiting.upgrade().filter(|waiting| !waiting.borrow().left.is_empty()) else {
                return false;
            };
            if partner.is_none() && work.is_none_or(|work| !Rc::ptr_eq(&waiting, work)) {
                partner = Some(waiting);
            }
            true
        });
        partner
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;
    use crate::application::errors::SourceError;
    use crate::application::ports::{ReadPace, ReadProgress};
    use crate::domain::value_objects::{ContentHash, TenantId};
    use crate::infrastructure::data_plane::buffers::{BufferPool, LARGE_BLOCK_BYTES};
    use crate::infrastructure::data_plane::runtime::{IoDriver, run};

    /// Nothing but the turns of others, and how many there were.
    #[derive(Default)]
    struct Turns(usize);

    impl ByteSource<Block> for Turns {
        async fn read(
            &mut self,
            _block: Block,
            _pace: ReadPace,
        ) -> (Result<ReadProgress, SourceError>, Block) {
            unreachable!("what is hashed has been read")
        }

        async fn take_turns(&mut self) {
            self.0 += 1;
            let mut has_been_asked = false;
            std::future::poll_fn(|context| {
                if std::mem::replace(&mut has_been_asked, true) {
                    return std::task::Poll::Ready(());
                }
                context.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await;
        }

        fn declared_hash(&self) -> Result<Option<ContentHash>, SourceError> {
            Ok(None)
        }
    }

    fn pool() -> BufferPool {
        BufferPool::new(64 * LARGE_BLOCK_BYTES)
    }

    fn block(pool: &BufferPool, length: usize, seed: usize) -> Block {
        let mut block = pool.large_block(&TenantId::parse("a").unwrap()).unwrap();
        let bytes: Vec<u8> = (0..length).map(|index| (index * 31 + index / 251 + seed) as u8).collect();
        assert_eq!(block.append(&bytes), length);
        block
    }

    #[test]
    fn each_gets_the_hash_of_its_own_bytes_whoever_is_beside_it() {
        let (pool, hashing) = (pool(), Hashing::default());
        let lengths = [
            0,
            1,
            WAIT_BYTES_MIN - 1,
            WAIT_BYTES_MIN,
            HASH_BYTES_MAX,
            HASH_BYTES_MAX + 1,
            300_001,
            65_537,
            LARGE_BLOCK_BYTES,
        ];
        let test = join_all(lengths.into_iter().enumerate().map(async |(seed, length)| {
            let block = block(&pool, length, seed);
            let skipped = length / 3;
            let mut hasher = Sha256::new();
            hasher.update(&block.bytes()[..skipped]);
            let (hasher, block) = hashing.hash(hasher, block, skipped..length, &mut Turns::default()).await;
            assert_eq!(hasher.finish(), Sha256::digest(block.bytes()), "{length} bytes");
        }));
        run(IoDriver::Epoll, test).unwrap();
        assert_eq!(pool.bytes_lent(), 0);
    }

    #[test]
    fn two_take_the_turns_of_one() {
        let (pool, hashing) = (pool(), Hashing::default());
        let slices = 6;
        let turns_of = |uploads| {
            let test = join_all((0..uploads).map(async |seed| {
                let mut turns = Turns::default();
                let block = block(&pool, slices * HASH_BYTES_MAX, seed);
                let length = block.len();
                hashing.hash(Sha256::new(), block, 0..length, &mut turns).await;
                turns.0
            }));
            run(IoDriver::Epoll, test).unwrap()
        };
        assert_eq!(turns_of(1), [slices]);
        assert_eq!(turns_of(2), [slices / 2, slices / 2]);
    }

    #[test]
    fn one_that_is_given_up_is_in_nobodys_way_and_gives_its_block_back() {
        let (pool, hashing) = (pool(), Hashing::default());
        let test = async {
            let mut turns = Turns::default();
            let given_up = hashing.hash(Sha256::new(), block(&pool, 300_000, 1), 0..300_000, &mut turns);
            let mut given_up = Box::pin(given_up);
            assert!(given_up.as_mut().now_or_never().is_none());
            let mut others = Turns::default();
            let mut other =
                Box::pin(hashing.hash(Sha256::new(), block(&pool, 200_000, 2), 0..200_000, &mut others));
            assert!(other.as_mut().now_or_never().is_none());
            drop(given_up);
            let (hasher, block) = other.await;
            assert_eq!(hasher.finish(), Sha256::digest(block.bytes()));
        };
        run(IoDriver::Epoll, test).unwrap();
        assert_eq!(pool.bytes_lent(), 0);
    }
}
