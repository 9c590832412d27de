//! Two readings of the same bytes: this server's parser and hyper's. Whoever stands before this server may read as hyper
//! does, so what this one takes for a request, that one has to take for the same: method, target, body and where the
//! next request begins. It may refuse more.
//!
//! hyper is the peer because it is kept, strict, and in use on both sides of many proxies. It splits a head with
//! httparse, as this server does, so that this says little about characters of names and values (the tables of
//! `smuggling` do); how a body's end is known, chunks and trailers are its own.

mod generator;
mod ours;
mod peer;

use std::cell::Cell;

use proptest::test_runner::{Config, TestError, TestRunner};

use generator::Stream;

/// How many streams are tried; `DIFFERENTIAL_CASES` tries more.
const CASES: u32 = 20_000;

/// What came of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    messages: Vec<Message>,
    end: End,
}

/// One request as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    /// Its token; all that this server does not know are one.
    method: String,
    target: String,
    body: Vec<u8>,
}

/// Why there is no further request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The bytes ended between two requests, or the last one said that it is the last.
    Clean,
    /// The bytes ended within this part of a request.
    Within(Part),
    /// What came next is refused.
    Refused(String),
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Head,
    /// The body, behind a head of this method and target.
    Body(String, String),
}

/// What this server takes and hyper refuses, each for its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exception {
    /// RFC 3986 has no such character in a target, and clients that do not escape send it; it separates nothing. hyper
    /// wants a target that is a URI.
    CharactersOfTarget,
    /// RFC 3986 §3.2.2 lets a host be percent-encoded; hyper does not.
    PercentInAuthority,
    /// hyper's lengths end two below 2^64; a body of that length comes to its end nowhere.
    LargestLengths,
}

/// Why the two may differ in the request that comes next, if they may.
fn exception(next: &Message, bytes: &[u8]) -> Option<Exception> {
    let in_uri = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]".contains(&byte);
    if !next.target.bytes().all(in_uri) {
        return Some(Exception::CharactersOfTarget);
    }
    let text = String::from_utf8_lossy(bytes);
    let authority = |line: &str| {
        let target = line.split(' ').nth(1).unwrap_or_default();
        let (_, rest) = target.split_once("://").unwrap_or(("", target));
        !target.starts_with('/') && rest.split('/').next().is_some_and(|authority| authority.contains('%'))
    };
    if text.split("\r\n").any(authority) {
        return Some(Exception::PercentInAuthority);
    }
    ["18446744073709551614", "18446744073709551615"]
        .into_iter()
        .any(|length| text.contains(length))
        .then_some(Exception::LargestLengths)
}

/// Holds what this server takes to be what the peer takes.
///
/// # Errors
/// How they differ.
fn compare(ours: &Reading, peers: &Reading, bytes: &[u8]) -> Result<(), String> {
    for (index, message) in ours.messages.iter().enumerate() {
        match peers.messages.get(index) {
            Some(other) if other == message => {}
            Some(other) => return Err(format!("message {index} is {message:?} here and {other:?} there")),
            None if exception(message, bytes).is_some() => return Ok(()),
            None => {
                return Err(format!(
                    "message {index} is taken here only: {message:?}; there: {:?}",
                    peers.end
                ));
            }
        }
    }
    let next = peers.messages.get(ours.messages.len());
    match &ours.end {
        End::Refused(_) | End::Clean => Ok(()),
        // What is not whole yet and not refused here must be neither whole nor refused there.
        End::Within(Part::Head) => match (next, &peers.end) {
            (None, End::Clean | End::Within(Part::Head)) => Ok(()),
            // Told earlier there: the head is refused here once it is whole.
            (None, End::Refused(_)) => Ok(()),
            (other, end) => Err(format!("a head is not whole here; there: {other:?}, {end:?}")),
        },
        End::Within(Part::Body(method, target)) => match (next, &peers.end) {
            (None, End::Within(Part::Body(other, that))) if (other, that) == (method, target) => Ok(()),
            // A line of the framing that is not whole is refused here once it is.
            (None, End::Refused(why)) if why == peer::IN_BODY && ours::may_be_refused_later(bytes) => Ok(()),
            (other, end) => {
                let message = Message { method: method.clone(), target: target.clone(), body: Vec::new() };
                match exception(&message, bytes) {
                    Some(_) => Ok(()),
                    None => Err(format!("a body is not whole here; there: {other:?}, {end:?}")),
                }
            }
        },
    }
}

/// Both readings of the same bytes, and whether they may stand beside each other.
fn read_both(bytes: &[u8], piece: usize) -> Result<Reading, String> {
    let ours = ours::read(bytes, piece);
    let peers = peer::read(bytes);
    compare(&ours, &peers, bytes).map(|()| ours)
}

#[test]
fn nothing_is_taken_that_the_peer_reads_otherwise() {
    let cases =
        std::env::var("DIFFERENTIAL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let (taken, refused, pipelined) = (Cell::new(0_u32), Cell::new(0_u32), Cell::new(0_u32));
    let config = Config { cases, max_shrink_iters: 4096, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&(generator::streams(), 1_usize..200), |(stream, piece)| {
        let bytes = stream.bytes();
        let reading = read_both(&bytes, piece).map_err(proptest::test_runner::TestCaseError::fail)?;
        let count = |counter: &Cell<u32>, yes: bool| counter.set(counter.get() + u32::from(yes));
        count(&taken, !reading.messages.is_empty());
        count(&pipelined, reading.messages.len() > 1);
        count(&refused, matches!(reading.end, End::Refused(_)));
        Ok(())
    });
    if let Err(TestError::Fail(reason, (stream, piece))) = outcome {
        let bytes = Stream::bytes(&stream);
        panic!("{reason}\nin pieces of {piece}: {:?}", String::from_utf8_lossy(&bytes));
    }
    let (taken, refused, pipelined) = (taken.get(), refused.get(), pipelined.get());
    println!(
        "{cases} streams: {taken} with a request that is taken, {pipelined} with several, {refused} with one that is refused"
    );
    // A generator that makes nothing but nonsense, or nothing wrong, would show nothing.
    assert!(taken > cases / 3 && refused > cases / 3 && pipelined > cases / 10);
}

#[test]
fn the_two_readings_agree_on_what_is_plain() {
    let get = "GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n";
    let chunks =
        "PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nA: b\r\n\r\n";
    let bytes =
        ["\r\n", get, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", chunks, get].concat();
    let message = |method: &str, target: &str, body: &[u8]| Message {
        method: method.to_owned(),
        target: target.to_owned(),
        body: body.to_vec(),
    };
    let expected = Reading {
        messages: vec![
            message("GET", "/a?b=c", b""),
            message("POST", "/", b"abc"),
            message("PUT", "/c", b"hello"),
            message("GET", "/a?b=c", b""),
        ],
        end: End::Clean,
    };
    assert_eq!(peer::read(bytes.as_bytes()), expected);
    for piece in 1..bytes.len() {
        assert_eq!(ours::read(bytes.as_bytes(), piece), expected);
    }
}

#[test]
fn a_difference_is_seen() {
    let message = |body: &str| Message { method: "GET".into(), target: "/".into(), body: body.into() };
    let reading = |messages: &[Message], end| Reading { messages: messages.to_vec(), end };
    let (hello, other) = (message("hello"), message("hell"));
    let refused = || End::Refused(String::new());
    let one = reading(std::slice::from_ref(&hello), End::Clean);
    assert!(compare(&one, &one, b"").is_ok());
    assert!(compare(&one, &reading(&[other], End::Clean), b"").is_err(), "another body");
    assert!(compare(&one, &reading(&[], refused()), b"").is_err(), "taken here only");
    assert!(compare(&reading(&[], refused()), &one, b"").is_ok(), "refused here only");
    let within = reading(&[], End::Within(Part::Body("GET".into(), "/".into())));
    assert!(compare(&within, &one, b"").is_err(), "whole there only");
    assert!(compare(&within, &reading(&[], refused()), b"").is_err(), "refused there only");
    let odd = reading(&[Message { target: "/<".into(), ..hello }], End::Clean);
    assert!(compare(&odd, &reading(&[], refused()), b"").is_ok(), "a named exception");
}

#[test]
fn each_exception_has_its_bytes() {
    for (expected, bytes) in [
        (Exception::CharactersOfTarget, "GET /<a> HTTP/1.1\r\nHost: h\r\n\r\n"),
        (Exception::PercentInAuthority, "GET http://a%41/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    ] {
        let (ours, peers) = (ours::read(bytes.as_bytes(), 99), peer::read(bytes.as_bytes()));
        assert_eq!((ours.messages.len(), peers.messages.len()), (1, 0), "{expected:?}");
        assert_eq!(exception(&ours.messages[0], bytes.as_bytes()), Some(expected));
    }
    let bytes = "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551615\r\n\r\n";
    assert!(matches!(ours::read(bytes.as_bytes(), 99).end, End::Within(Part::Body(..))));
    assert!(matches!(peer::read(bytes.as_bytes()).end, End::Refused(_)));
    assert!(read_both(bytes.as_bytes(), 99).is_ok());
}
