//! A server, and how it is talked to: one pool of connections for all workers, a limit to every wait, and a number of
//! tries for what may work the next time.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use clap::Args;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;
use ureq::config::AutoHeaderValue;
use ureq::http::{HeaderValue, Request, Response, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, Body};

use super::answers::{Problem, shown};
use super::errors::ClientError;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait between two tries, whatever a server asks for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The wait before the second try where the server does not say; it doubles each time.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// The most of a problem that is read.
const PROBLEM_BYTES_MAX: u64 = 64 * 1024;
/// The most of a listing's page or an object that is read: a thousand objects of 16 KiB of metadata, and then some.
const JSON_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The most of a file with a token.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// Where systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which server, and as whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct RemoteArguments {
    /// The server
    #[arg(long, env = "JUST_STORAGE_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A token or an API key; better in the environment or a file, since others on this machine can see flags
    #[arg(long, env = "JUST_STORAGE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<Token>,
    /// A file with the token or API key
    #[arg(long, env = "JUST_STORAGE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file with the certificates to trust, in PEM [default: those of the system]
    #[arg(long, env = "JUST_STORAGE_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How often something is tried that fails in a way that may pass
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    tries: u32,
    /// How long the server may be silent
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout_secs: u64,
}

/// How many things are done at once.
#[derive(Debug, Args)]
pub(super) struct WorkerArguments {
    /// How many transfers at once
    #[arg(short = 'j', long = "jobs", value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: u16,
}

/// A credential, which is never shown.
#[derive(Clone)]
pub(super) struct Token(String);

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// One server.
pub(super) struct Remote {
    agent: Agent,
    /// Scheme, authority and what stands before every path; no slash at the end.
    base: String,
    authorization: Option<HeaderValue>,
    tries: u32,
}

impl Remote {
    /// Asks nothing of the server yet.
    ///
    /// # Errors
    /// [`ClientError::Usage`] for settings that cannot be, [`ClientError::Files`] for files that cannot be read.
    pub(super) fn new(arguments: &RemoteArguments, connections: u16) -> Result<Self, ClientError> {
        let base = base(&arguments.url)?;
        let silence = Some(Duration::from_secs(arguments.timeout_secs));
        let connections = usize::from(connections);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("just_storage/", env!("CARGO_PKG_VERSION")))
            .accept(AutoHeaderValue::None)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(silence)
            .timeout_per_write(silence);
        if base.starts_with("https:") {
            config = config.tls_config(tls(arguments.ca_file.as_deref())?);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            base,
            authorization: authorization(arguments)?,
            tries: arguments.tries,
        })
    }

    /// Whose address errors name.
    fn server(&self) -> String {
        self.base.clone()
    }

    /// Tries until there is an outcome that would stay. An attempt that says so by `true` got further than the one
    /// before it, and the count begins anew.
    pub(super) fn retrying<T>(
        &self,
        mut attempt: impl FnMut(Try) -> (Result<T, ClientError>, bool),
    ) -> Result<T, ClientError> {
        let mut failures = 0;
        let mut again = false;
        loop {
            let (outcome, advanced) = attempt(Try { again });
            failures = if advanced { 1 } else { failures + 1 };
            match outcome {
                Err(error) if failures < self.tries && may_pass(&error) => {
                    thread::sleep(pause(&error, failures));
                    again = true;
                }
                settled => return settled,
            }
        }
    }

    /// The same for what is done as a whole or not at all.
    pub(super) fn retrying_whole<T>(
        &self,
        mut attempt: impl FnMut(Try) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        self.retrying(|this| (attempt(this), false))
    }

    /// One request, with any answer that is not an error.
    ///
    /// # Errors
    /// What the status says, or that there is no answer.
    pub(super) fn send<B: AsSendBody>(
        &self,
        mut request: Request<B>,
        what: &str,
    ) -> Result<Response<Body>, ClientError> {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let answer = self.agent.run(request).map_err(|error| self.unreachable(error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refusal(answer, what))
    }

    /// A request to a path and query of the interface.
    pub(super) fn request<B>(
        &self,
        method: &str,
        target: &str,
        fields: &[(header::HeaderName, &str)],
        body: B,
    ) -> Result<Request<B>, ClientError> {
        let mut request = Request::builder().method(method).uri(format!("{}{target}", self.base));
        for (name, value) in fields {
            request = request.header(name, *value);
        }
        // Targets are encoded, and values checked, so that only what was given as a flag can be wrong.
        request.body(body).map_err(|error| ClientError::Usage(format!("this cannot be asked for: {error}")))
    }

    /// What a `GET` of JSON answers, tried again.
    pub(super) fn get_json<T: DeserializeOwned>(&self, target: &str, what: &str) -> Result<T, ClientError> {
        self.retrying_whole(|_| {
            let answer = self.send(self.request("GET", target, &[], ())?, what)?;
            self.read_json(answer, what)
        })
    }

    /// The JSON of an answer.
    pub(super) fn read_json<T: DeserializeOwned>(
        &self,
        answer: Response<Body>,
        what: &str,
    ) -> Result<T, ClientError> {
        let bytes = self.read_text(answer, what)?;
        serde_json::from_slice(&bytes).map_err(|_| no_such_json(what))
    }

    /// The JSON on each line of an answer.
    pub(super) fn read_json_lines<T: DeserializeOwned>(
        &self,
        answer: Response<Body>,
        what: &str,
    ) -> Result<Vec<T>, ClientError> {
        let bytes = self.read_text(answer, what)?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|_| no_such_json(what))).collect()
    }

    fn read_text(&self, answer: Response<Body>, what: &str) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        let read = answer.into_body().into_reader().take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.unreachable(error.into()))?;
        if bytes.len() as u64 > JSON_BYTES_MAX {
            return Err(ClientError::Foreign {
                what: what.to_owned(),
                reason: "it is longer than any answer",
            });
        }
        Ok(bytes)
    }

    /// That there was no answer, or only the beginning of one.
    pub(super) fn unreachable(&self, source: ureq::Error) -> ClientError {
        let transient = match &source {
            // rustls gives its errors so: a certificate that is not trusted will not be the next time.
            ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
            ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
            _ => false,
        };
        ClientError::Unreachable { server: self.server(), transient, source }
    }
}

/// What an attempt should know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    /// One before may have been done without an answer.
    pub(super) again: bool,
}

fn no_such_json(what: &str) -> ClientError {
    ClientError::Foreign { what: what.to_owned(), reason: "it is not the JSON that belongs there" }
}

fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Later { .. } => true,
        ClientError::Unreachable { transient, .. } => *transient,
        _ => false,
    }
}

/// What the server asks for, or twice as long each time, within bounds.
fn pause(error: &ClientError, failures: u32) -> Duration {
    let asked = match error {
        ClientError::Later { retry_after, .. } => *retry_after,
        _ => None,
    };
    let own = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    asked.unwrap_or(own).min(PAUSE_MAX)
}

/// What an answer that is no success means.
fn refusal(answer: Response<Body>, what: &str) -> ClientError {
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| seconds_or_date(text, SystemTime::now()));
    let (parts, body) = answer.into_parts();
    let mut bytes = Vec::new();
    // A problem that breaks off is as good as none.
    let _ = body.into_reader().take(PROBLEM_BYTES_MAX).read_to_end(&mut bytes);
    let problem: Problem = serde_json::from_slice(&bytes).unwrap_or_default();
    let detail = match &problem.detail {
        Some(detail) => shown(detail).into_owned(),
        None => parts.status.canonical_reason().unwrap_or("refused").to_owned(),
    };
    let what = what.to_owned();
    match (status, problem.code.as_deref()) {
        (401 | 403, _) => ClientError::Refused { what, status, detail },
        (404, _) => ClientError::NotFound(what),
        (400, Some("digest_mismatch")) => ClientError::DigestMismatch(what),
        (408 | 429 | 502 | 503 | 504, _) => ClientError::Later { what, status, detail, retry_after },
        _ => ClientError::Declined { what, status, detail, parameter: problem.parameter },
    }
}

/// `Retry-After` (RFC 9110 §10.2.3).
fn seconds_or_date(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The URL without its last slash.
fn base(url: &str) -> Result<String, ClientError> {
    let refuse = |reason: &str| ClientError::Usage(format!("JUST_STORAGE_URL: {reason}"));
    let uri: Uri = url.parse().map_err(|_| refuse("this is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refuse("it begins with http:// or https://"));
    }
    // A password in it would stand in every message.
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(refuse("it holds a host and no user; credentials are given by JUST_STORAGE_TOKEN"));
    }
    if uri.query().is_some() || url.contains('#') {
        return Err(refuse("it has neither a query nor a fragment"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn authorization(arguments: &RemoteArguments) -> Result<Option<HeaderValue>, ClientError> {
    let token = match (&arguments.token, &arguments.token_file) {
        (Some(_), Some(_)) => {
            let reason = "JUST_STORAGE_TOKEN and JUST_STORAGE_TOKEN_FILE are both set; unset one of them";
            return Err(ClientError::Usage(reason.to_owned()));
        }
        (Some(token), None) => token.0.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => return Ok(None),
    };
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value =
        value.map_err(|_| ClientError::Usage("JUST_STORAGE_TOKEN: this is no token".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn read_token(path: &Path) -> Result<String, ClientError> {
    let mut token = String::new();
    let file = std::fs::File::open(path).map_err(ClientError::files("open", path))?;
    let read = file.take(TOKEN_BYTES_MAX).read_to_string(&mut token);
    read.map_err(ClientError::files("read", path))?;
    Ok(token)
}

/// Trusts the certificates of a file, or those that the system trusts.
fn tls(ca_file: Option<&Path>) -> Result<TlsConfig, ClientError> {
    let system = || SYSTEM_CERTIFICATES.iter().map(Path::new).find(|path| path.exists());
    let path = ca_file.or_else(system).ok_or_else(|| {
        ClientError::Usage("this system has no certificates to trust; name a file with --ca-file".to_owned())
    })?;
    let unreadable = |error| ClientError::Usage(format!("{}: {error}", path.display()));
    let mut trusted = Vec::new();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        trusted.push(Certificate::from_der(&certificate.map_err(unreadable)?).to_owned());
    }
    if trusted.is_empty() {
        return Err(ClientError::Usage(format!("there is no certificate in {}", path.display())));
    }
    let config = TlsConfig::builder().root_certs(RootCerts::from(trusted));
    Ok(config.unversioned_rustls_crypto_provider(Arc::new(default_provider())).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_scheme_and_a_host_with_a_path_before_it() {
        assert_eq!(base("http://h:1/").unwrap(), "http://h:1");
        assert_eq!(base("https://h/store/").unwrap(), "https://h/store");
        for url in ["", "h", "h:1", "ftp://h", "http://", "http://u:secret@h", "http://h/?a", "http://h/#a"] {
            let error = base(url).unwrap_err().to_string();
            assert!(error.starts_with("JUST_STORAGE_URL") && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_pause_is_what_is_asked_for_within_bounds() {
        let later = |retry_after| ClientError::Later {
            what: String::new(),
            status: 503,
            detail: String::new(),
            retry_after,
        };
        assert_eq!(pause(&later(Some(Duration::from_secs(3))), 1), Duration::from_secs(3));
        assert_eq!(pause(&later(Some(Duration::from_secs(3000))), 1), PAUSE_MAX);
        assert_eq!(pause(&later(None), 1), PAUSE_FIRST);
        assert_eq!(pause(&later(None), 3), PAUSE_FIRST * 4);
        assert_eq!(pause(&later(None), u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(seconds_or_date("7", now), Some(Duration::from_secs(7)));
        let date = "Sun, 06 Nov 1994 08:49:47 GMT";
        assert_eq!(seconds_or_date(date, now), Some(Duration::from_secs(10)));
        assert_eq!(seconds_or_date(date, now + Duration::from_secs(60)), Some(Duration::ZERO));
        assert_eq!(seconds_or_date("soon", now), None);
    }

    #[test]
    fn a_token_is_never_shown() {
        assert!(!format!("{:?}", Token::from("secret".to_owned())).contains("secret"));
    }
}
