//! Memory for answers, of one core: a connection holds some only while it has something to send. What was sent last is
//! still in the processor's cache, and ten thousand connections that wait hold nothing.

use std::cell::RefCell;

/// What an answer starts with: a head and a body of 4 KiB.
const OUTPUT_BYTES: usize = 8 * 1024;
/// How many are kept for the next answers: as many as a core has under way at once, as a rule.
const SPARE_MAX: usize = 128;

/// The core's.
#[derive(Debug, Default)]
pub struct OutputPool(RefCell<Vec<Vec<u8>>>);

impl OutputPool {
    /// Memory for an answer: the last that was given back.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(OUTPUT_BYTES))
    }

    /// Takes back what was sent; what has grown goes to the allocator.
    pub(super) fn give_back(&self, mut output: Vec<u8>) {
        let mut spare = self.0.borrow_mut();
        if output.capacity() == OUTPUT_BYTES && spare.len() < SPARE_MAX {
            output.clear();
            spare.push(output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_taken_first() {
        let pool = OutputPool::default();
        let (mut first, mut second) = (pool.take(), pool.take());
        first.extend_from_slice(b"first");
        second.extend_from_slice(b"second");
        let places = [first.as_ptr(), second.as_ptr()];
        pool.give_back(first);
        pool.give_back(second);
        let (last, before) = (pool.take(), pool.take());
        assert_eq!([before.as_ptr(), last.as_ptr()], places);
        assert!(last.is_empty() && before.is_empty());
    }

    #[test]
    fn so_many_are_kept_and_none_that_has_grown() {
        let pool = OutputPool::default();
        pool.give_back(Vec::new());
        pool.give_back(Vec::with_capacity(OUTPUT_BYTES + 1));
        assert_eq!(pool.0.borrow().len(), 0);
        let taken: Vec<_> = (0..=SPARE_MAX).map(|_| pool.take()).collect();
        taken.into_iter().for_each(|output| pool.give_back(output));
        assert_eq!(pool.0.borrow().len(), SPARE_MAX);
    }
}
