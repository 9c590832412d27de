//! The fuzz targets once more, without a fuzzer: each input of the corpora as it is, and then changed at random. A fuzzer
//! sees what a change reaches and goes on from there; this does not, but it needs no compiler of its own, and so runs
//! wherever the tests do.

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use crate::content::Random;
use crate::fuzz_targets as targets;
use crate::server::files_below;

/// How many changed inputs each target is given; `CORPORA_CHANGES` gives more.
const CHANGES: u32 = 5_000;
/// The longest input, like libFuzzer's where no longer one is in the corpus.
const INPUT_BYTES_MAX: usize = 4096;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 11] = [
    ("archive", targets::archive::check),
    ("chunked_body", targets::chunked_body::check),
    ("conditions", targets::conditions::check),
    ("credentials", targets::credentials::check),
    ("cursor", targets::cursor::check),
    ("digest_fields", targets::digest_fields::check),
    ("pack_records", targets::pack_records::check),
    ("query", targets::query::check),
    ("range", targets::range::check),
    ("request_head", targets::request_head::check),
    ("signed_url", targets::signed_url::check),
];

#[test]
fn every_fuzz_target_is_replayed_and_has_a_corpus() {
    let named: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |directory: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stems("fuzz_targets"), named);
    assert_eq!(stems("corpus"), named);
}

#[test]
fn no_input_of_the_corpora_fails_as_it_is_or_changed() {
    let changes =
        std::env::var("CORPORA_CHANGES").ok().and_then(|changes| changes.parse().ok()).unwrap_or(CHANGES);
    thread::scope(|scope| {
        for (name, check) in TARGETS {
            scope.spawn(move || replay(name, check, changes));
        }
    });
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn replay(name: &str, check: Check, changes: u32) {
    let run = |input: &[u8]| {
        if panic::catch_unwind(|| check(input)).is_err() {
            panic!("fuzz target {name} fails on \"{}\"", input.escape_ascii());
        }
    };
    let mut files = files_below(&fuzz().join("corpus").join(name));
    files.sort();
    let mut inputs: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!inputs.is_empty(), "{name}");
    inputs.iter().for_each(|input| run(input));
    let words = dictionary(name);
    let mut random = Random::new(1);
    for _ in 0..changes {
        let mut input = pick(&inputs, &mut random).clone();
        for _ in 0..=random.below(4) {
            change(&mut input, &inputs, &words, &mut random);
        }
        input.truncate(INPUT_BYTES_MAX);
        run(&input);
        // What one change needs before it is worth anything may be another one.
        if random.below(16) == 0 {
            inputs.push(input);
        }
    }
}

/// Changes an input as fuzzers do.
fn change(input: &mut Vec<u8>, inputs: &[Vec<u8>], words: &[Vec<u8>], random: &mut Random) {
    let at = index(input.len() + 1, random);
    let end = at + index(input.len() - at + 1, random);
    match random.below(7) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = *pick(&[0, 0xff, 0x7f, b' ', b'\n', b'"', b'9'], random),
        2 => drop(input.drain(at..end)),
        3 => {
            let part = input[at..end].to_vec();
            let to = index(input.len() + 1, random);
            input.splice(to..to, part);
        }
        4 => {
            let other = pick(inputs, random);
            let from = index(other.len() + 1, random);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        5 if !words.is_empty() => drop(input.splice(at..at, pick(words, random).iter().copied())),
        _ => input.insert(at, random.below(256) as u8),
    }
}

fn index(bound: usize, random: &mut Random) -> usize {
    random.below(bound as u64) as usize
}

fn pick<'a, T>(from: &'a [T], random: &mut Random) -> &'a T {
    &from[index(from.len(), random)]
}

/// The words of a dictionary of libFuzzer: one in quotes a line, in which `\xAB` is a byte.
fn dictionary(name: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(fuzz().join("dictionaries").join(name)).unwrap_or_default();
    let word = |line: &str| {
        let mut parts = line.strip_prefix('"')?.strip_suffix('"')?.split("\\x");
        let mut word = parts.next()?.as_bytes().to_vec();
        for part in parts {
            let (digits, rest) = part.split_at(2);
            word.push(u8::from_str_radix(digits, 16).unwrap());
            word.extend_from_slice(rest.as_bytes());
        }
        Some(word)
    };
    text.lines().filter_map(word).collect()
}
