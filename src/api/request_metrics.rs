//! What each core counts of connections and requests, and how it is told. A request costs a look into a table of names and
//! a few additions to cells that no other core writes.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smol_str::SmolStr;

use super::handlers::{Response, UPLOADS_PATH};
use super::http1::{Method, RequestHead};
use super::query::percent_decode;
use crate::infrastructure::metrics::{Counter, Durations, Exposition, Kind, Names, OTHER, Words};

/// How many namespaces are told apart. Those that are seen first are; what happens in more is told as of [`OTHER`].
pub const NAMESPACES_MAX: usize = 64;
/// How many codes of problems are told apart: more than there are.
const CODES_MAX: usize = 96;

/// Where requests count whose namespace is past the bound, or was never seen to exist.
const OTHER_NAMESPACE: usize = NAMESPACES_MAX;
/// Where requests count that are about no namespace, or about an object that is not there.
const NO_NAMESPACE: usize = NAMESPACES_MAX + 1;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", OTHER];
/// All that this server answers with. One that is forgotten here counts as [`OTHER`].
const STATUSES: [u16; 28] = [
    200, 201, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 414, 415, 416, 417, 423, 429,
    431, 460, 500, 501, 503, 505, 507,
];

fn method_index(method: Method) -> usize {
    match method {
        Method::Get => 0,
        Method::Head => 1,
        Method::Post => 2,
        Method::Put => 3,
        Method::Patch => 4,
        Method::Delete => 5,
        Method::Options | Method::Trace | Method::Connect | Method::Unknown => 6,
    }
}

/// The names that requests bring, with the same numbers on all cores.
#[derive(Debug)]
pub struct RequestLabels {
    namespaces: Words,
    codes: Words,
}

impl Default for RequestLabels {
    fn default() -> Self {
        Self { namespaces: Words::at_most(NAMESPACES_MAX), codes: Words::at_most(CODES_MAX) }
    }
}

/// One core's cells.
#[derive(Debug)]
pub struct RequestMetrics {
    labels: Arc<RequestLabels>,
    /// Made when a namespace is first asked for on this core.
    namespaces: [OnceLock<Box<NamespaceCells>>; NAMESPACES_MAX + 2],
    errors: [Counter; CODES_MAX + 1],
    connections: Counter,
    accepted: Counter,
    refused: Counter,
    failed_handshakes: Counter,
    requests_in_flight: Counter,
    uploads_in_flight: Counter,
}

#[derive(Debug, Default)]
struct NamespaceCells {
    requests: [[Counter; STATUSES.len() + 1]; METHODS.len()],
    durations: [Durations; METHODS.len()],
    bytes_in: Counter,
    bytes_out: Counter,
}

impl RequestMetrics {
    /// Cells for one core.
    pub fn new(labels: Arc<RequestLabels>) -> Self {
        Self {
            labels,
            namespaces: [const { OnceLock::new() }; NAMESPACES_MAX + 2],
            errors: std::array::from_fn(|_| Counter::default()),
            connections: Counter::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            failed_handshakes: Counter::default(),
            requests_in_flight: Counter::default(),
            uploads_in_flight: Counter::default(),
        }
    }
}

/// The core that counts.
#[derive(Debug)]
pub struct RequestRecorder {
    metrics: Arc<RequestMetrics>,
    /// The numbers of namespaces that this core has seen: no more than there are.
    numbers: RefCell<HashMap<SmolStr, usize>>,
    /// The one that was asked for last: most often it is asked for next.
    last: Cell<usize>,
}

/// Which namespace a request counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NamespaceLabel(usize);

impl NamespaceLabel {
    /// None.
    pub(super) const NONE: Self = Self(NO_NAMESPACE);
}

/// What is known of a request once it has been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) method: Method,
    pub(super) status: u16,
    pub(super) duration: Duration,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Something that is there for as long as this is.
#[must_use]
pub(super) struct Present<'r>(&'r Counter);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.take(1);
    }
}

fn present(count: &Counter) -> Present<'_> {
    count.add(1);
    Present(count)
}

impl RequestRecorder {
    /// The one thread that counts in these cells.
    pub fn new(metrics: Arc<RequestMetrics>) -> Self {
        Self { metrics, numbers: RefCell::default(), last: Cell::new(0) }
    }

    /// A connection that was accepted.
    pub(super) fn connection(&self) -> Present<'_> {
        self.metrics.accepted.add(1);
        present(&self.metrics.connections)
    }

    /// A connection that was one too many.
    pub fn refuse_connection(&self) {
        self.metrics.refused.add(1);
    }

    pub(super) fn fail_handshake(&self) {
        self.metrics.failed_handshakes.add(1);
    }

    pub(super) fn request(&self) -> Present<'_> {
        present(&self.metrics.requests_in_flight)
    }

    pub(super) fn upload(&self) -> Present<'_> {
        present(&self.metrics.uploads_in_flight)
    }

    /// A problem that is answered.
    pub(super) fn count_error(&self, code: &'static str) {
        let number = self.metrics.labels.codes.find_or_add(code).unwrap_or(CODES_MAX);
        self.metrics.errors[number].add(1);
    }

    /// The namespace of what is answered. One becomes known by an object in it that was found, made or deleted: asking for
    /// names that mean nothing takes no place from those that do.
    pub(super) fn label<Reader>(&self, head: &RequestHead, response: &Response<Reader>) -> NamespaceLabel {
        if let Some(object) = &response.object {
            return self.number(object.object.scope.namespace.as_str(), true);
        }
        let Some(named) = namespace_named(head) else { return NamespaceLabel::NONE };
        // Those batches name a namespace also where they find nothing in it.
        let finds = matches!(head.path(), "/v1/batch/get" | "/v1/batch/delete");
        let is_change = !matches!(head.method(), Method::Get | Method::Head) && !finds;
        self.number(&named, is_change && response.status < 300)
    }

    fn number(&self, namespace: &str, exists: bool) -> NamespaceLabel {
        let known = &self.metrics.labels.namespaces;
        if known.get(self.last.get()) == Some(namespace) {
            return NamespaceLabel(self.last.get());
        }
        if let Some(number) = self.numbers.borrow().get(namespace) {
            self.last.set(*number);
            return NamespaceLabel(*number);
        }
        let number = if exists { known.find_or_add(namespace) } else { known.find(namespace) };
        let Some(number) = number else { return NamespaceLabel(OTHER_NAMESPACE) };
        self.numbers.borrow_mut().insert(namespace.into(), number);
        NamespaceLabel(number)
    }

    /// A request that has been answered, as well as it could be.
    pub(super) fn count(&self, NamespaceLabel(namespace): NamespaceLabel, answered: Answered) {
        let cells = self.metrics.namespaces[namespace].get_or_init(Box::default);
        let method = method_index(answered.method);
        let status = STATUSES.iter().position(|status| *status == answered.status).unwrap_or(STATUSES.len());
        cells.requests[method][status].add(1);
        cells.durations[method].record(answered.duration);
        cells.bytes_in.add(answered.bytes_in);
        cells.bytes_out.add(answered.bytes_out);
    }
}

/// The namespace that stands in the target, as the router and the handlers read it.
fn namespace_named(head: &RequestHead) -> Option<Cow<'_, str>> {
    let path = head.path();
    let text = match path.strip_prefix("/v1/keys/") {
        Some(rest) => rest.split('/').next()?,
        None if matches!(path, "/v1/objects" | UPLOADS_PATH) || path.starts_with("/v1/batch/") => {
            head.query()?.split('&').find_map(|parameter| parameter.strip_prefix("namespace="))?
        }
        None => return None,
    };
    percent_decode(text)
}

/// Appends what all cores have counted.
pub fn write_requests(cores: &[Arc<RequestMetrics>], text: &mut Exposition, names: Names) {
    let namespaces = by_namespace(cores, names);
    let help = "Requests that were answered.";
    let mut family = text.family("activestorage_requests_total", Kind::Counter, help);
    for (namespace, cells) in &namespaces {
        for (index, method) in METHODS.iter().enumerate() {
            for status in 0..=STATUSES.len() {
                let count: u64 = cells.iter().map(|cells| cells.requests[index][status].get()).sum();
                if count > 0 {
                    let status = STATUSES.get(status).map_or_else(|| OTHER.to_owned(), u16::to_string);
                    family.value(&[("method", method), ("status", &status), ("namespace", namespace)], count);
                }
            }
        }
    }
    let help = "From the end of a request's head to the end of its answer.";
    let mut family = text.family("activestorage_request_duration_seconds", Kind::Histogram, help);
    for (namespace, cells) in &namespaces {
        for (index, method) in METHODS.iter().enumerate() {
            let merged = Durations::merge(cells.iter().map(|cells| &cells.durations[index]));
            if merged.count() > 0 {
                family.histogram(&[("method", method), ("namespace", namespace)], &merged);
            }
        }
    }
    let help =
        "Bytes of request bodies that were taken in; those of a request count when it has been answered.";
    let mut family = text.family("activestorage_request_body_bytes_total", Kind::Counter, help);
    for (namespace, cells) in &namespaces {
        family
            .value(&[("namespace", namespace)], cells.iter().map(|cells| cells.bytes_in.get()).sum::<u64>());
    }
    let help = "Bytes of answers' bodies that were sent; those of an answer count at its end.";
    let mut family = text.family("activestorage_response_body_bytes_total", Kind::Counter, help);
    for (namespace, cells) in &namespaces {
        family
            .value(&[("namespace", namespace)], cells.iter().map(|cells| cells.bytes_out.get()).sum::<u64>());
    }
    write_errors(cores, text);
    write_connections(cores, text);
}

/// The cells of each namespace that was asked for, on whichever cores.
fn by_namespace(cores: &[Arc<RequestMetrics>], names: Names) -> BTreeMap<&str, Vec<&NamespaceCells>> {
    let mut namespaces: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for core in cores {
        for (number, cells) in core.namespaces.iter().enumerate() {
            let Some(cells) = cells.get() else { continue };
            let name = match number {
                NO_NAMESPACE => "",
                _ if names == Names::Withheld => OTHER,
                _ => core.labels.namespaces.get(number).unwrap_or(OTHER),
            };
            namespaces.entry(name).or_default().push(cells.as_ref());
        }
    }
    namespaces
}

fn write_errors(cores: &[Arc<RequestMetrics>], text: &mut Exposition) {
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for core in cores {
        for (number, errors_of_code) in core.errors.iter().enumerate().filter(|(_, count)| count.get() > 0) {
            let code = core.labels.codes.get(number).unwrap_or(OTHER);
            *errors.entry(code).or_default() += errors_of_code.get();
        }
    }
    let help = "Problems that were answered, by their code.";
    let mut family = text.family("activestorage_errors_total", Kind::Counter, help);
    for (code, count) in errors {
        family.value(&[("code", code)], count);
    }
}

fn write_connections(cores: &[Arc<RequestMetrics>], text: &mut Exposition) {
    let sum = |of: fn(&RequestMetrics) -> &Counter| cores.iter().map(|core| of(core).get()).sum::<u64>();
    let help = "Open connections.";
    text.single("activestorage_connections", Kind::Gauge, help, sum(|core| &core.connections));
    let help = "Connections that were accepted.";
    text.single("activestorage_connections_accepted_total", Kind::Counter, help, sum(|core| &core.accepted));
    let help = "Connections that were one too many.";
    text.single("activestorage_connections_refused_total", Kind::Counter, help, sum(|core| &core.refused));
    let help = "TLS handshakes that failed.";
    let failed = sum(|core| &core.failed_handshakes);
    text.single("activestorage_tls_handshake_failures_total", Kind::Counter, help, failed);
    let help = "Requests whose answer is not done.";
    text.single("activestorage_requests_in_flight", Kind::Gauge, help, sum(|core| &core.requests_in_flight));
    let help = "Uploads whose answer is not done.";
    text.single("activestorage_uploads_in_flight", Kind::Gauge, help, sum(|core| &core.uploads_in_flight));
}

#[cfg(test)]
mod tests {
    use super::super::errors::Problem;
    use super::super::http1::{HeadLimits, HeadParser, status_title};
    use super::*;

    fn head(method: &str, target: &str) -> RequestHead {
        let limits = HeadLimits { request_line_bytes_max: 8192, header_bytes_max: 8192, fields_max: 10 };
        let mut head = RequestHead::default();
        let text = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        HeadParser::default().parse(text.as_bytes(), &limits, &mut head).unwrap();
        head
    }

    fn cores(count: usize) -> (Vec<Arc<RequestMetrics>>, Vec<RequestRecorder>) {
        let labels = Arc::<RequestLabels>::default();
        let cores: Vec<_> = (0..count).map(|_| Arc::new(RequestMetrics::new(labels.clone()))).collect();
        let recorders = cores.iter().cloned().map(RequestRecorder::new).collect();
        (cores, recorders)
    }

    /// One that names no object.
    fn answer_of(status: u16) -> Response<()> {
        Response::problem(Problem::new(status, "a_code", ""), "", "")
    }

    fn answer(recorder: &RequestRecorder, method: &str, target: &str, status: u16) {
        let head = head(method, target);
        let label = recorder.label(&head, &answer_of(status));
        let (method, duration) = (head.method(), Duration::from_micros(300));
        recorder.count(label, Answered { method, status, duration, bytes_in: 3, bytes_out: 5 });
    }

    fn text(cores: &[Arc<RequestMetrics>], names: Names) -> String {
        let mut text = Exposition::default();
        write_requests(cores, &mut text, names);
        text.into_text()
    }

    #[test]
    fn every_status_that_is_answered_has_its_cell() {
        let statuses: Vec<u16> = (200..600).filter(|status| status_title(*status) != "Unknown").collect();
        assert_eq!(statuses, STATUSES);
    }

    #[test]
    fn what_cores_count_is_told_as_one() {
        let (cores, recorders) = cores(2);
        answer(&recorders[0], "PUT", "/v1/keys/models/acme/k", 201);
        answer(&recorders[1], "PUT", "/v1/keys/models/acme/k", 201);
        answer(&recorders[1], "GET", "/v1/objects?limit=1&namespace=mode%6cs", 200);
        answer(&recorders[0], "GET", "/health", 200);
        recorders[0].count_error("not_found");
        recorders[1].count_error("overloaded");
        recorders[1].count_error("not_found");
        let text = text(&cores, Names::Told);
        for line in [
            r#"activestorage_requests_total{method="PUT",status="201",namespace="models"} 2"#,
            r#"activestorage_requests_total{method="GET",status="200",namespace="models"} 1"#,
            r#"activestorage_requests_total{method="GET",status="200",namespace=""} 1"#,
            r#"activestorage_request_duration_seconds_bucket{method="PUT",namespace="models",le="0.00025"} 0"#,
            r#"activestorage_request_duration_seconds_bucket{method="PUT",namespace="models",le="0.0005"} 2"#,
            r#"activestorage_request_duration_seconds_count{method="PUT",namespace="models"} 2"#,
            r#"activestorage_request_body_bytes_total{namespace="models"} 9"#,
            r#"activestorage_response_body_bytes_total{namespace=""} 5"#,
            r#"activestorage_errors_total{code="not_found"} 2"#,
            r#"activestorage_errors_total{code="overloaded"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
    }

    #[test]
    fn only_namespaces_with_objects_take_a_place() {
        let (cores, recorders) = cores(1);
        answer(&recorders[0], "GET", "/v1/objects?namespace=imagined&tenant_id=acme", 200);
        answer(&recorders[0], "PUT", "/v1/keys/forbidden/acme/k", 403);
        answer(&recorders[0], "PUT", "/v1/keys/real/acme/k", 200);
        answer(&recorders[0], "GET", "/v1/keys/real/acme/other", 404);
        let text = text(&cores, Names::Told);
        assert!(!text.contains("imagined") && !text.contains("forbidden"), "{text}");
        assert!(text.contains(r#"status="403",namespace="other"} 1"#), "{text}");
        assert!(text.contains(r#"status="404",namespace="real"} 1"#), "{text}");
    }

    #[test]
    fn namespaces_past_the_bound_fold_into_other() {
        let (cores, recorders) = cores(2);
        for number in 0..NAMESPACES_MAX + 3 {
            answer(&recorders[number % 2], "PUT", &format!("/v1/keys/n{number}/acme/k"), 201);
        }
        let told = text(&cores, Names::Told);
        let requests = |text: &str| {
            let lines = text.lines().filter(|line| line.starts_with("activestorage_requests_total{"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(requests(&told).len(), NAMESPACES_MAX + 1);
        assert!(told.contains(r#"status="201",namespace="other"} 3"#), "{told}");
        // To whoever does not reach everything all of it is one.
        let withheld = requests(&text(&cores, Names::Withheld));
        let expected = r#"activestorage_requests_total{method="PUT",status="201",namespace="other"} 67"#;
        assert_eq!(withheld, [expected]);
    }

    #[test]
    fn what_is_under_way_counts_while_it_is() {
        let (cores, recorders) = cores(1);
        let connection = recorders[0].connection();
        let upload = recorders[0].upload();
        let told = |name: &str| {
            let text = text(&cores, Names::Told);
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!((told("activestorage_connections"), told("activestorage_uploads_in_flight")), (1, 1));
        drop((connection, upload));
        assert_eq!((told("activestorage_connections"), told("activestorage_uploads_in_flight")), (0, 0));
        assert_eq!(told("activestorage_connections_accepted_total"), 1);
    }
}
