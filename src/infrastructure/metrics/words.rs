//! Words that come from outside and become labels: so many at most, each with its number, the same on all cores.

use std::sync::{Mutex, OnceLock, PoisonError};

use smol_str::SmolStr;

/// A list that words are added to and never taken from. Who looks for one never waits.
#[derive(Debug)]
pub struct Words {
    places: Box<[OnceLock<SmolStr>]>,
    adding: Mutex<()>,
}

impl Words {
    /// An empty list that takes so many.
    pub fn at_most(count: usize) -> Self {
        Self { places: std::iter::repeat_with(OnceLock::new).take(count).collect(), adding: Mutex::default() }
    }

    /// How many there can be.
    pub fn len_max(&self) -> usize {
        self.places.len()
    }

    /// The number of a word, if it is known.
    pub fn find(&self, word: &str) -> Option<usize> {
        self.known().position(|known| known == word)
    }

    /// The number of a word, which becomes known if it is not and there is a place left.
    pub fn find_or_add(&self, word: &str) -> Option<usize> {
        if let Some(number) = self.find(word) {
            return Some(number);
        }
        // A full list stays so: whoever comes with ever new words takes no lock.
        if self.places.last().is_none_or(|place| place.get().is_some()) {
            return None;
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        // Another core may have added it meanwhile.
        let number = self.find(word).unwrap_or_else(|| self.known().count());
        self.places.get(number)?.get_or_init(|| word.into());
        Some(number)
    }

    /// The word of a number.
    pub fn get(&self, number: usize) -> Option<&str> {
        self.places.get(number)?.get().map(SmolStr::as_str)
    }

    fn known(&self) -> impl Iterator<Item = &SmolStr> {
        self.places.iter().map_while(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_past_the_bound_is_not_taken() {
        let words = Words::at_most(2);
        assert_eq!((words.find("a"), words.find_or_add("a")), (None, Some(0)));
        assert_eq!((words.find_or_add("b"), words.find_or_add("a")), (Some(1), Some(0)));
        assert_eq!((words.find_or_add("c"), words.find("c")), (None, None));
        assert_eq!((words.get(1), words.get(2)), (Some("b"), None));
        assert_eq!(Words::at_most(0).find_or_add("a"), None);
    }

    #[test]
    fn cores_that_add_at_once_agree_on_numbers() {
        let words = Words::at_most(64);
        let numbers =
            |()| (0..80).map(|number| words.find_or_add(&format!("w{}", number % 70))).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let (one, other) = (scope.spawn(|| numbers(())), scope.spawn(|| numbers(())));
            assert_eq!(one.join().unwrap()[..60], other.join().unwrap()[..60]);
        });
        for number in 0..64 {
            assert_eq!(words.find(words.get(number).unwrap()), Some(number), "each word has one place");
        }
    }
}
