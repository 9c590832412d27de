//! What can be asked, and what is answered: one row for each method of each path.

use std::collections::BTreeMap;

use super::super::http1::{FILE_NAME_BYTES_MAX, Method};
use crate::domain::entities::Permission;

/// One method of one path.
pub(super) struct Operation {
    pub(super) path: &'static str,
    pub(super) method: Method,
    /// A name for programs.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) tag: &'static str,
    pub(super) needs: Needs,
    pub(super) parameters: &'static [Parameter],
    pub(super) sent: Sent,
    /// What it answers where all is well, and what is particular about it where it is not.
    own_answers: &'static [(u16, Answer)],
}

/// What a request has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// A credential; what that has to permit is said by what is asked for.
    Credential,
    /// A credential that permits this.
    Permission(Permission),
}

/// What a request carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sent {
    Nothing,
    Bytes,
    Limits,
    LifecycleRule,
    Patch,
    SignRequest,
    Digests,
    GetBatch,
    DeleteBatch,
    Archive,
}

/// What an answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Upload,
    Bytes,
    Archive,
    Results,
    Object,
    List,
    Tenant,
    Lifecycle,
    SignedUrl,
    Missing,
    Readiness,
    ReadinessOrProblem,
    Json,
    Text,
    Problem,
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    /// Whether it has to be there.
    Query(bool),
    Header,
}

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
}

/// A parameter of the path, of the query, or a header field.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) kind: Kind,
    pub(super) description: &'static str,
    pub(super) pattern: Option<&'static str>,
    /// The least and the most: of a number, or of characters.
    pub(super) bounds: Option<(usize, usize)>,
    /// The only values.
    pub(super) words: &'static [&'static str],
}

/// Refusals that any request may meet: a message that is none, a limit, too much at once.
const OF_ANY: [u16; 7] = [400, 408, 413, 414, 431, 501, 503];
/// Refusals for want of a good credential, and of one that asks too often.
const OF_CREDENTIALS: [u16; 3] = [401, 403, 429];

impl Operation {
    /// Everything that it may answer.
    pub(super) fn answers(&self) -> BTreeMap<u16, Answer> {
        let credentials = OF_CREDENTIALS.iter().filter(|_| self.needs != Needs::Nothing);
        let mut answers: BTreeMap<_, _> =
            OF_ANY.iter().chain(credentials).map(|status| (*status, Answer::Problem)).collect();
        answers.extend([(417, Answer::Problem), (505, Answer::Problem)]);
        answers.extend(self.own_answers.iter().copied());
        answers
    }
}

impl Answer {
    /// Words for it, where those of the status do not say it.
    pub(super) const fn description(self) -> Option<&'static str> {
        match self {
            Self::Bytes => Some("The bytes"),
            Self::Archive => Some("The objects, and what became of each item"),
            Self::Results => Some("What became of each item, a line for each"),
            Self::Object => Some("The object"),
            Self::List => Some("A page of the list"),
            Self::SignedUrl => Some("The URL"),
            Self::Missing => Some("What would have to be sent"),
            Self::Tenant => Some("What the tenant has and may have"),
            Self::Lifecycle => Some("What becomes of the namespace's objects with time"),
            Self::Readiness | Self::ReadinessOrProblem => Some("Each check by name"),
            Self::Upload => Some("How the upload stands"),
            Self::Nothing | Self::Json | Self::Text | Self::Problem => None,
        }
    }

    /// The header fields that are particular about it.
    pub(super) const fn fields(self, status: u16) -> &'static [(&'static str, &'static str)] {
        match (self, status) {
            (Self::Bytes, 206) => &[VERSION, ("Content-Range", "Which bytes these are, if it is one range")],
            (Self::Bytes, _) | (Self::Nothing, 304) => &[VERSION],
            (Self::Upload, 201) => &[OFFSET, EXPIRES, OBJECT, ("Location", "Where the upload goes on")],
            (Self::Upload, _) => &[OFFSET, EXPIRES, OBJECT],
            (Self::Object, 201) => &[VERSION, ("Location", "Where the object is by its id")],
            (Self::List, _) => &[("Link", "Where there is a next page: that, with rel=\"next\"")],
            (Self::Problem, 401) => &[("WWW-Authenticate", "What would let the request in")],
            (Self::Problem, 415) => &[("Accept-Patch", "To a patch: of which kind it has to be")],
            (Self::Problem, 416) => &[("Content-Range", "How long the object is")],
            (Self::Problem, 429) | (Self::Problem | Self::ReadinessOrProblem, 503) => {
                &[("Retry-After", "Seconds")]
            }
            _ => &[],
        }
    }
}

const OFFSET: (&str, &str) = ("Upload-Offset", "Where it goes on; every byte before is durable");
const EXPIRES: (&str, &str) = ("Upload-Expires", "Until when it waits for more");
const OBJECT: (&str, &str) = ("X-Object-Id", "The object that it has become, once all of it is here");
const VERSION: (&str, &str) = ("ETag", "\"sha256-\" and the content's hash");

const fn parameter(name: &'static str, place: Place, description: &'static str) -> Parameter {
    Parameter { name, place, kind: Kind::Text, description, pattern: None, bounds: None, words: &[] }
}

const NAMESPACE_PATTERN: &str = "^[a-z0-9][a-z0-9._-]{0,62}$";
const TENANT_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$";
/// Of what may be a key, what needs no more than this to be said.
const KEY_PATTERN: &str = "^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$";
/// The same of a file's name.
const FILE_NAME_PATTERN: &str = "^[A-Za-z0-9_-]*$";

const fn namespace(place: Place) -> Parameter {
    let named = parameter("namespace", place, "The namespace");
    Parameter { pattern: Some(NAMESPACE_PATTERN), ..named }
}

const fn tenant(place: Place) -> Parameter {
    let named = parameter("tenant_id", place, "The tenant");
    Parameter { pattern: Some(TENANT_PATTERN), ..named }
}

const fn key(place: Place) -> Parameter {
    let description = "1 to 1024 bytes of UTF-8, with slashes as they are; no empty segment, no . and no .., no control \
                       character";
    Parameter { pattern: Some(KEY_PATTERN), bounds: Some((1, 1024)), ..parameter("key", place, description) }
}

const fn class() -> Parameter {
    Parameter {
        words: &["hot", "cold"],
        ..parameter("storage_class", Place::Query(false), "Through the page cache, or around it")
    }
}

const ID: Parameter = Parameter {
    pattern: Some("^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
    ..parameter("id", Place::Path, "The object's id (UUIDv7)")
};
const IF_MATCH: Parameter = parameter("If-Match", Place::Header, "Only if one of these versions is there");
const IF_NONE_MATCH: Parameter =
    parameter("If-None-Match", Place::Header, "Only if none of these versions is there");
const IF_MODIFIED_SINCE: Parameter =
    parameter("If-Modified-Since", Place::Header, "Only if it has been changed since then");
const IF_UNMODIFIED_SINCE: Parameter =
    parameter("If-Unmodified-Since", Place::Header, "Only if it has not been changed since then");
const RANGE: Parameter = parameter(
    "Range",
    Place::Header,
    "Which bytes; of several ranges, up to 256, each is a part of the answer",
);
const IF_RANGE: Parameter =
    parameter("If-Range", Place::Header, "The range only of this version, else the whole");
const DOWNLOAD: Parameter = Parameter {
    pattern: Some(FILE_NAME_PATTERN),
    bounds: Some((0, FILE_NAME_BYTES_MAX)),
    ..parameter(
        "download",
        Place::Query(false),
        "The name of the file that a browser keeps it as, up to 255 bytes of UTF-8 without slashes, backslashes and \
         control characters; empty: the last part of its key",
    )
};
const STATUS: Parameter = Parameter {
    words: &["WRITING", "COMMITTED", "DELETING", "DELETED"],
    ..parameter("status", Place::Query(false), "Which objects; COMMITTED if nothing is said")
};
const LIMIT: Parameter = Parameter {
    kind: Kind::Integer,
    bounds: Some((1, 1000)),
    ..parameter("limit", Place::Query(false), "How many at most; 100 if nothing is said")
};
const CURSOR: Parameter = parameter(
    "cursor",
    Place::Query(false),
    "Where the page before has ended: its next_cursor, for the same query",
);

const UPLOAD_ID: Parameter = Parameter {
    pattern: Some("^(hot|cold)-[0-9a-f]{16}-[0-9a-f]{32}$"),
    ..parameter("upload_id", Place::Path, "The upload's id")
};
const TUS_RESUMABLE: Parameter = Parameter {
    words: &["1.0.0"],
    ..parameter("Tus-Resumable", Place::Header, "The version of the protocol, which has to stand there")
};
const UPLOAD_OFFSET: Parameter =
    parameter("Upload-Offset", Place::Header, "Where the body belongs: where the upload goes on");
const UPLOAD_LENGTH: Parameter =
    parameter("Upload-Length", Place::Header, "How long the whole will be; it never changes");
const UPLOAD_DEFER_LENGTH: Parameter = Parameter {
    words: &["1"],
    ..parameter("Upload-Defer-Length", Place::Header, "That the length is not known yet")
};
const UPLOAD_METADATA: Parameter =
    parameter("Upload-Metadata", Place::Header, "Names and values in base64; filetype is the media type");
const UPLOAD_CHECKSUM: Parameter =
    parameter("Upload-Checksum", Place::Header, "sha1 or sha256, a space, the digest of this body in base64");
const UPLOAD_CONCAT: Parameter =
    parameter("Upload-Concat", Place::Header, "partial, or final; and the URLs of partial uploads");
const METHOD_OVERRIDE: Parameter = Parameter {
    words: &["PATCH", "DELETE"],
    ..parameter("X-HTTP-Method-Override", Place::Header, "The method that is meant")
};
const OF_A_PIECE: [Parameter; 5] = [UPLOAD_ID, TUS_RESUMABLE, UPLOAD_OFFSET, UPLOAD_LENGTH, UPLOAD_CHECKSUM];
const OF_A_POSTED_PIECE: [Parameter; 6] =
    [UPLOAD_ID, TUS_RESUMABLE, METHOD_OVERRIDE, UPLOAD_OFFSET, UPLOAD_LENGTH, UPLOAD_CHECKSUM];

const DIGEST: Parameter = Parameter {
    pattern: Some("^sha256:[0-9a-f]{64}$"),
    ..parameter("digest", Place::Path, "What the content is: sha256: and its hash")
};
const BLOB_REFERENCE: Parameter = Parameter {
    pattern: Some("^sha256:[0-9a-f]{64}$"),
    ..parameter("X-Blob-Reference", Place::Header, "A content that the tenant has, instead of a body")
};

const OF_A_BLOB: [Parameter; 9] = [
    DIGEST,
    tenant(Place::Query(true)),
    DOWNLOAD,
    RANGE,
    IF_RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
];
const OF_A_STORED_KEY: [Parameter; 7] = [
    namespace(Place::Path),
    tenant(Place::Path),
    key(Place::Path),
    IF_MATCH,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    BLOB_REFERENCE,
];
const PREFIX: Parameter = Parameter {
    bounds: Some((0, 1024)),
    ..parameter(
        "prefix",
        Place::Query(false),
        "What keys begin with: lists the newest versions of these, by key; empty for all keys",
    )
};
const DELIMITER: Parameter = Parameter {
    bounds: Some((1, 64)),
    ..parameter(
        "delimiter",
        Place::Query(false),
        "Lists by key, and shows keys that have it behind the prefix by what they have in common up to there",
    )
};
const VERSIONS: Parameter = Parameter {
    words: &[""],
    ..parameter(
        "versions",
        Place::Query(false),
        "Without a value: lists all versions of the key, as List does",
    )
};
const OF_A_LISTING: [Parameter; 8] = [
    namespace(Place::Query(true)),
    tenant(Place::Query(true)),
    PREFIX,
    DELIMITER,
    class(),
    STATUS,
    LIMIT,
    CURSOR,
];
const OF_A_DOWNLOAD: [Parameter; 8] =
    [ID, DOWNLOAD, RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
const OF_A_KEY: [Parameter; 13] = [
    namespace(Place::Path),
    tenant(Place::Path),
    key(Place::Path),
    DOWNLOAD,
    RANGE,
    IF_RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
    VERSIONS,
    LIMIT,
    CURSOR,
];
const OF_A_CHANGED_KEY: [Parameter; 6] = [
    namespace(Place::Path),
    tenant(Place::Path),
    key(Place::Path),
    IF_MATCH,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
];

const DOWNLOADED: &[(u16, Answer)] = &[
    (200, Answer::Bytes),
    (206, Answer::Bytes),
    (304, Answer::Nothing),
    (404, Answer::Problem),
    (412, Answer::Problem),
    (416, Answer::Problem),
    (500, Answer::Problem),
];
const LOOKED_AT: &[(u16, Answer)] =
    &[(200, Answer::Bytes), (304, Answer::Nothing), (404, Answer::Problem), (412, Answer::Problem)];
const DELETED: &[(u16, Answer)] =
    &[(204, Answer::Nothing), (404, Answer::Problem), (412, Answer::Problem), (507, Answer::Problem)];

/// What may come of a piece.
const PIECE: &[(u16, Answer)] = &[
    (204, Answer::Upload),
    (403, Answer::Problem),
    (404, Answer::Problem),
    (409, Answer::Problem),
    (410, Answer::Problem),
    (412, Answer::Problem),
    (415, Answer::Problem),
    (423, Answer::Problem),
    (460, Answer::Problem),
    (500, Answer::Problem),
    (507, Answer::Problem),
];

/// What of an operation is the same for the most.
const PLAIN: Operation = Operation {
    path: "",
    method: Method::Get,
    id: "",
    summary: "",
    tag: "server",
    needs: Needs::Nothing,
    parameters: &[],
    sent: Sent::Nothing,
    own_answers: &[(200, Answer::Json)],
};

/// All of them.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation { path: "/", id: "describe", summary: "What this server is", ..PLAIN },
    Operation {
        path: "/",
        method: Method::Head,
        id: "describeHead",
        summary: "The same, without a body",
        ..PLAIN
    },
    Operation {
        path: "/",
        method: Method::Post,
        id: "echo",
        summary: "Sends a body of at most 64 KiB back as it was understood",
        sent: Sent::Bytes,
        own_answers: &[(200, Answer::Bytes)],
        ..PLAIN
    },
    Operation { path: "/health", id: "health", summary: "Whether the process lives", ..PLAIN },
    Operation {
        path: "/health",
        method: Method::Head,
        id: "healthHead",
        summary: "The same, without a body",
        ..PLAIN
    },
    Operation {
        path: "/health/ready",
        id: "ready",
        summary: "Whether the database answers and both roots take writes",
        own_answers: &[(200, Answer::Readiness), (503, Answer::ReadinessOrProblem)],
        ..PLAIN
    },
    Operation {
        path: "/health/ready",
        method: Method::Head,
        id: "readyHead",
        summary: "The same, without a body",
        own_answers: &[(200, Answer::Readiness), (503, Answer::ReadinessOrProblem)],
        ..PLAIN
    },
    Operation { path: "/openapi.json", id: "openapi", summary: "This description", ..PLAIN },
    Operation {
        path: "/openapi.json",
        method: Method::Head,
        id: "openapiHead",
        summary: "The same, without a body",
        ..PLAIN
    },
    Operation {
        path: "/metrics",
        id: "metrics",
        summary: "What the server has counted, for Prometheus",
        needs: Needs::Permission(Permission::Admin),
        own_answers: &[(200, Answer::Text)],
        ..PLAIN
    },
    Operation {
        path: "/metrics",
        method: Method::Head,
        id: "metricsHead",
        summary: "The same, without a body",
        needs: Needs::Permission(Permission::Admin),
        own_answers: &[(200, Answer::Text)],
        ..PLAIN
    },
    Operation {
        path: "/v1/objects",
        method: Method::Post,
        id: "createObject",
        summary: "Stores the body as a new object",
        tag: "objects",
        needs: Needs::Permission(Permission::Write),
        parameters: &[
            namespace(Place::Query(true)),
            tenant(Place::Query(true)),
            key(Place::Query(false)),
            class(),
            BLOB_REFERENCE,
        ],
        sent: Sent::Bytes,
        own_answers: &[
            (201, Answer::Object),
            (404, Answer::Problem),
            (415, Answer::Problem),
            (500, Answer::Problem),
            (507, Answer::Problem),
        ],
    },
    Operation {
        path: "/v1/objects",
        id: "listObjects",
        summary: "Lists objects, newest first, or by key",
        tag: "objects",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_LISTING,
        own_answers: &[(200, Answer::List)],
        ..PLAIN
    },
    Operation {
        path: "/v1/objects",
        method: Method::Head,
        id: "listObjectsHead",
        summary: "The same, without a body",
        tag: "objects",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_LISTING,
        own_answers: &[(200, Answer::List)],
        ..PLAIN
    },
    Operation {
        path: "/v1/objects/{id}",
        id: "getObject",
        summary: "The bytes of an object, or some of them",
        tag: "objects",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_DOWNLOAD,
        own_answers: DOWNLOADED,
        ..PLAIN
    },
    Operation {
        path: "/v1/objects/{id}",
        method: Method::Head,
        id: "headObject",
        summary: "What a download would say of itself",
        tag: "objects",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_DOWNLOAD,
        own_answers: LOOKED_AT,
        ..PLAIN
    },
    Operation {
        path: "/v1/objects/{id}",
        method: Method::Patch,
        id: "patchObject",
        summary: "Changes metadata, key or storage class of an object",
        tag: "objects",
        needs: Needs::Permission(Permission::Write),
        parameters: &[ID, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE],
        sent: Sent::Patch,
        own_answers: &[
            (200, Answer::Object),
            (404, Answer::Problem),
            (409, Answer::Problem),
            (412, Answer::Problem),
            (415, Answer::Problem),
            (500, Answer::Problem),
            (507, Answer::Problem),
        ],
    },
    Operation {
        path: "/v1/objects/{id}",
        method: Method::Delete,
        id: "deleteObject",
        summary: "Forgets an object",
        tag: "objects",
        needs: Needs::Permission(Permission::Delete),
        parameters: &[ID, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE],
        own_answers: DELETED,
        ..PLAIN
    },
    Operation {
        path: "/v1/objects/{id}/info",
        id: "getObjectInfo",
        summary: "What is known of an object, also while it is being written",
        tag: "objects",
        needs: Needs::Permission(Permission::Read),
        parameters: &[ID],
        own_answers: &[(200, Answer::Object), (404, Answer::Problem)],
        ..PLAIN
    },
    Operation {
        path: "/v1/objects/{id}/info",
        method: Method::Head,
        id: "headObjectInfo",
        summary: "The same, without a body",
        tag: "objects",
        needs: Needs::Permission(Permission::Read),
        parameters: &[ID],
        own_answers: &[(200, Answer::Object), (404, Answer::Problem)],
        ..PLAIN
    },
    Operation {
        path: "/v1/keys/{namespace}/{tenant_id}/{key}",
        method: Method::Put,
        id: "putKey",
        summary: "Makes a new version of a key",
        tag: "keys",
        needs: Needs::Permission(Permission::Write),
        parameters: &OF_A_STORED_KEY,
        sent: Sent::Bytes,
        own_answers: &[
            (200, Answer::Object),
            (201, Answer::Object),
            (404, Answer::Problem),
            (412, Answer::Problem),
            (415, Answer::Problem),
            (507, Answer::Problem),
        ],
    },
    Operation {
        path: "/v1/keys/{namespace}/{tenant_id}/{key}",
        id: "getKey",
        summary: "The bytes of the newest version of a key, or some of them; or the list of its versions",
        tag: "keys",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_KEY,
        own_answers: DOWNLOADED,
        ..PLAIN
    },
    Operation {
        path: "/v1/keys/{namespace}/{tenant_id}/{key}",
        method: Method::Head,
        id: "headKey",
        summary: "What a download would say of itself",
        tag: "keys",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_KEY,
        own_answers: LOOKED_AT,
        ..PLAIN
    },
    Operation {
        path: "/v1/keys/{namespace}/{tenant_id}/{key}",
        method: Method::Delete,
        id: "deleteKey",
        summary: "Forgets all versions of a key",
        tag: "keys",
        needs: Needs::Permission(Permission::Delete),
        parameters: &OF_A_CHANGED_KEY,
        own_answers: DELETED,
        ..PLAIN
    },
    Operation {
        path: "/v1/tenants/{tenant_id}",
        id: "getTenant",
        summary: "What a tenant has and may have",
        tag: "tenants",
        needs: Needs::Permission(Permission::Admin),
        parameters: &[tenant(Place::Path)],
        own_answers: &[(200, Answer::Tenant)],
        ..PLAIN
    },
    Operation {
        path: "/v1/tenants/{tenant_id}",
        method: Method::Head,
        id: "headTenant",
        summary: "The same, without a body",
        tag: "tenants",
        needs: Needs::Permission(Permission::Admin),
        parameters: &[tenant(Place::Path)],
        own_answers: &[(200, Answer::Tenant)],
        ..PLAIN
    },
    Operation {
        path: "/v1/tenants/{tenant_id}",
        method: Method::Put,
        id: "setTenantLimits",
        summary: "Gives a tenant these limits instead of those before",
        tag: "tenants",
        needs: Needs::Permission(Permission::Admin),
        parameters: &[tenant(Place::Path)],
        sent: Sent::Limits,
        own_answers: &[(200, Answer::Tenant), (507, Answer::Problem)],
    },
    Operation {
        path: "/v1/namespaces/{namespace}/lifecycle",
        id: "getLifecycle",
        summary: "What becomes of a namespace's objects with time",
        tag: "namespaces",
        needs: Needs::Permission(Permission::Admin),
        parameters: &[namespace(Place::Path)],
        own_answers: &[(200, Answer::Lifecycle)],
        ..PLAIN
    },
    Operation {
        path: "/v1/namespaces/{namespace}/lifecycle",
        method: Method::Head,
        id: "headLifecycle",
        summary: "The same, without a body",
        tag: "namespaces",
        needs: Needs::Permission(Permission::Admin),
        parameters: &[namespace(Place::Path)],
        own_answers: &[(200, Answer::Lifecycle)],
        ..PLAIN
    },
    Operation {
        path: "/v1/namespaces/{namespace}/lifecycle",
        method: Method::Put,
        id: "setLifecycle",
        summary: "Gives a namespace this rule instead of the one before",
        tag: "namespaces",
        needs: Needs::Permission(Permission::Admin),
        parameters: &[namespace(Place::Path)],
        sent: Sent::LifecycleRule,
        own_answers: &[(200, Answer::Lifecycle), (507, Answer::Problem)],
    },
    Operation {
        path: "/v1/sign",
        method: Method::Post,
        id: "signUrl",
        summary: "Signs a URL that lets others do one thing that whoever asks may do",
        tag: "credentials",
        needs: Needs::Credential,
        sent: Sent::SignRequest,
        own_answers: &[(200, Answer::SignedUrl), (404, Answer::Problem)],
        ..PLAIN
    },
    Operation {
        path: "/v1/blobs/{digest}",
        id: "getBlob",
        summary: "The bytes of a content that the tenant has, or some of them",
        tag: "blobs",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_BLOB,
        own_answers: DOWNLOADED,
        ..PLAIN
    },
    Operation {
        path: "/v1/blobs/{digest}",
        method: Method::Head,
        id: "getBlobHead",
        summary: "The same, without a body",
        tag: "blobs",
        needs: Needs::Permission(Permission::Read),
        parameters: &OF_A_BLOB,
        own_answers: LOOKED_AT,
        ..PLAIN
    },
    Operation {
        path: "/v1/blobs/missing",
        method: Method::Post,
        id: "findMissingBlobs",
        summary: "Which contents the tenant would have to send; the others are kept for a while",
        tag: "blobs",
        needs: Needs::Permission(Permission::Write),
        parameters: &[tenant(Place::Query(true))],
        sent: Sent::Digests,
        own_answers: &[(200, Answer::Missing), (507, Answer::Problem)],
    },
    Operation {
        path: "/v1/batch/get",
        method: Method::Post,
        id: "getBatch",
        summary: "Many objects, or parts of them, as one tar archive",
        tag: "batches",
        needs: Needs::Permission(Permission::Read),
        parameters: &[namespace(Place::Query(false)), tenant(Place::Query(false))],
        sent: Sent::GetBatch,
        own_answers: &[(200, Answer::Archive), (500, Answer::Problem)],
    },
    Operation {
        path: "/v1/batch/put",
        method: Method::Post,
        id: "putBatch",
        summary: "Stores each file of a tar archive under its name as the key, or gives contents that are there their keys",
        tag: "batches",
        needs: Needs::Permission(Permission::Write),
        parameters: &[
            namespace(Place::Query(true)),
            tenant(Place::Query(true)),
            class(),
            parameter("prefix", Place::Query(false), "What keys have before the names of the files"),
            IF_MATCH,
            IF_NONE_MATCH,
            IF_UNMODIFIED_SINCE,
        ],
        sent: Sent::Archive,
        own_answers: &[(200, Answer::Results), (415, Answer::Problem), (507, Answer::Problem)],
    },
    Operation {
        path: "/v1/batch/delete",
        method: Method::Post,
        id: "deleteBatch",
        summary: "Forgets many objects, or all versions of many keys",
        tag: "batches",
        needs: Needs::Permission(Permission::Delete),
        parameters: &[namespace(Place::Query(false)), tenant(Place::Query(false))],
        sent: Sent::DeleteBatch,
        own_answers: &[(200, Answer::Results)],
    },
    Operation {
        path: "/v1/uploads",
        method: Method::Options,
        id: "describeUploads",
        summary: "Which version and extensions of tus are spoken",
        tag: "uploads",
        needs: Needs::Permission(Permission::Write),
        own_answers: &[(204, Answer::Nothing)],
        ..PLAIN
    },
    Operation {
        path: "/v1/uploads",
        method: Method::Post,
        id: "createUpload",
        summary: "Makes an upload that can be resumed (tus 1.0), with the first of its bytes or without",
        tag: "uploads",
        needs: Needs::Permission(Permission::Write),
        parameters: &[
            namespace(Place::Query(true)),
            tenant(Place::Query(true)),
            key(Place::Query(false)),
            class(),
            TUS_RESUMABLE,
            UPLOAD_LENGTH,
            UPLOAD_DEFER_LENGTH,
            UPLOAD_METADATA,
            UPLOAD_CONCAT,
            UPLOAD_CHECKSUM,
            IF_MATCH,
            IF_NONE_MATCH,
            IF_UNMODIFIED_SINCE,
        ],
        sent: Sent::Bytes,
        own_answers: &[
            (201, Answer::Upload),
            (412, Answer::Problem),
            (415, Answer::Problem),
            (423, Answer::Problem),
            (460, Answer::Problem),
            (500, Answer::Problem),
            (507, Answer::Problem),
        ],
    },
    Operation {
        path: "/v1/uploads/{upload_id}",
        method: Method::Head,
        id: "headUpload",
        summary: "Where an upload goes on",
        tag: "uploads",
        needs: Needs::Permission(Permission::Write),
        parameters: &[UPLOAD_ID, TUS_RESUMABLE],
        own_answers: &[
            (200, Answer::Upload),
            (404, Answer::Problem),
            (410, Answer::Problem),
            (412, Answer::Problem),
            (423, Answer::Problem),
            (500, Answer::Problem),
            (507, Answer::Problem),
        ],
        ..PLAIN
    },
    Operation {
        path: "/v1/uploads/{upload_id}",
        method: Method::Patch,
        id: "resumeUpload",
        summary: "The next bytes of an upload; with the last it becomes an object",
        tag: "uploads",
        needs: Needs::Permission(Permission::Write),
        parameters: &OF_A_PIECE,
        sent: Sent::Bytes,
        own_answers: PIECE,
    },
    Operation {
        path: "/v1/uploads/{upload_id}",
        method: Method::Post,
        id: "resumeUploadByPost",
        summary: "A PATCH or a DELETE, for whoever can send neither",
        tag: "uploads",
        needs: Needs::Permission(Permission::Write),
        parameters: &OF_A_POSTED_PIECE,
        sent: Sent::Bytes,
        own_answers: PIECE,
    },
    Operation {
        path: "/v1/uploads/{upload_id}",
        method: Method::Delete,
        id: "deleteUpload",
        summary: "Gives an upload up; an object that it has become stays",
        tag: "uploads",
        needs: Needs::Permission(Permission::Write),
        parameters: &[UPLOAD_ID, TUS_RESUMABLE],
        own_answers: &[
            (204, Answer::Nothing),
            (404, Answer::Problem),
            (410, Answer::Problem),
            (412, Answer::Problem),
            (423, Answer::Problem),
            (500, Answer::Problem),
        ],
        ..PLAIN
    },
];
