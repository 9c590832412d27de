//! `just_storage health`: asks a running server how it is, for images and units that have no client in them. It speaks as
//! much HTTP/1.1 as one answer takes, over a socket of its own, and needs nothing of the store.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use clap::Args;

use super::{MaintenanceError, Verdict};

/// What is read of an answer; that of a health check is much shorter.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;
/// Where the server listens, if nothing is said.
const PORT: u16 = 8080;
/// Says that the process lives, whatever its database and its disks do.
const PATH: &str = "/health";
/// What a listener that speaks TLS says to those who do not: it lives, too.
const ASKS_FOR_TLS: &str = "\"tls_required\"";

/// What `health` is told.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// What to ask; /health/ready also asks whether it can do its work [default: http://127.0.0.1:8080/health, on the port of LISTEN_ADDR]
    #[arg(value_name = "URL", value_parser = Question::parse)]
    url: Option<Question>,
    /// How long the answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout_secs: u64,
    /// Where the server of this environment listens
    #[arg(long, env, hide = true)]
    listen_addr: Option<SocketAddr>,
}

/// Whom to ask for what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    /// A name or an address, and a port.
    authority: String,
    path: String,
}

impl Question {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const RULE: &str =
            "a URL is http://HOST:PORT/PATH. TLS is not spoken here; a listener that wants it says so";
        let rest = text.strip_prefix("http://").ok_or(RULE)?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RULE);
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let authority = if has_port { host.to_owned() } else { format!("{host}:80") };
        let path = if path.is_empty() { PATH } else { path };
        Ok(Self { authority, path: path.into() })
    }

    /// How the server that listens there says that it lives.
    fn of_listener(listen_addr: Option<SocketAddr>) -> Self {
        let mut address = listen_addr.unwrap_or((Ipv4Addr::UNSPECIFIED, PORT).into());
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        Self { authority: address.to_string(), path: PATH.into() }
    }
}

pub(super) fn ask(arguments: HealthArguments) -> Result<Verdict, MaintenanceError> {
    let question = arguments.url.unwrap_or_else(|| Question::of_listener(arguments.listen_addr));
    let answer = exchange(&question, Duration::from_secs(arguments.timeout_secs));
    let answer = match &answer {
        Ok(answer) => String::from_utf8_lossy(answer),
        Err(error) => {
            eprintln!("just_storage: nobody answers at {}: {error}", question.authority);
            return Ok(Verdict::NotClean);
        }
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    println!("{status}: {}", body.trim());
    Ok(if is_well(&question, status, body) { Verdict::Clean } else { Verdict::NotClean })
}

fn is_well(question: &Question, status: &str, body: &str) -> bool {
    let mut words = status.split(' ');
    let speaks_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    match (speaks_http, words.next()) {
        (true, Some("200")) => true,
        (true, Some("400")) => question.path == PATH && body.contains(ASKS_FOR_TLS),
        _ => false,
    }
}

/// Sends the question and reads the answer to its end, in `limit` altogether.
fn exchange(question: &Question, limit: Duration) -> io::Result<Vec<u8>> {
    let begun = Instant::now();
    let left = || match limit.saturating_sub(begun.elapsed()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = connect(&question.authority, left)?;
    stream.set_write_timeout(Some(left()?))?;
    let Question { authority, path } = question;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while (answer.len() as u64) < ANSWER_BYTES_MAX {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part)? {
            0 => break,
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    Ok(answer)
}

/// A connection to the first of the name's addresses that takes one.
fn connect(authority: &str, left: impl Fn() -> io::Result<Duration>) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_whom_to_ask_for_what() {
        for (text, authority, path) in [
            ("http://h:1/health/ready", "h:1", "/health/ready"),
            ("http://h", "h:80", "/health"),
            ("http://[::1]:8080", "[::1]:8080", "/health"),
            ("http://[::1]/x?y", "[::1]:80", "/x?y"),
        ] {
            let expected = Question { authority: authority.into(), path: path.into() };
            assert_eq!(Question::parse(text), Ok(expected), "{text}");
        }
        for text in ["", "h:1", "https://h/", "http://", "http:///x", "http://h/\r\nX: y", "http://h /"] {
            assert!(Question::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn without_a_url_the_server_of_the_environment_is_asked() {
        for (listener, authority) in [
            (None, "127.0.0.1:8080"),
            (Some("0.0.0.0:9"), "127.0.0.1:9"),
            (Some("[::]:9"), "[::1]:9"),
            (Some("10.0.0.1:9"), "10.0.0.1:9"),
        ] {
            let listener = listener.map(|text| text.parse().unwrap());
            assert_eq!(Question::of_listener(listener).authority, authority);
        }
    }

    #[test]
    fn only_an_answer_that_says_so_is_well() {
        let of = |path: &str| Question { authority: String::new(), path: path.into() };
        assert!(is_well(&of("/health/ready"), "HTTP/1.1 200 OK", ""));
        assert!(is_well(&of("/health"), "HTTP/1.1 400 Bad Request", r#"{"code":"tls_required"}"#));
        for (path, status, body) in [
            ("/health", "HTTP/1.1 503 Service Unavailable", ""),
            ("/health", "HTTP/1.1 400 Bad Request", r#"{"code":"bad_request"}"#),
            ("/health/ready", "HTTP/1.1 400 Bad Request", r#"{"code":"tls_required"}"#),
            ("/health", "SSH-2.0-x 200", ""),
            ("/health", "", ""),
        ] {
            assert!(!is_well(&of(path), status, body), "{status}");
        }
    }
}
