//! `PATCH /v1/objects/{id}`: what is said of an object, its key or its class changes (RFC 7396).

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use utoipa::ToSchema;

use super::super::audit_log::Change;
use super::super::errors::Problem;
use super::super::http1::{Conditions, RequestHead};
use super::super::query::Parameters;
use super::super::request_body::RequestBody;
use super::super::service::Service;
use super::Response;
use super::json::object_json;
use super::upload::refuse_content_coding;
use crate::application::ports::{BlobStore, Clock, ObjectName, ObjectRepository};
use crate::application::use_cases::{MetadataPatch, ObjectPatch, update_object};
use crate::domain::value_objects::{Key, Metadata, StorageClass};
use crate::infrastructure::data_plane::buffers::Block;

/// The only kind of patch that is taken.
pub(in crate::api) const MERGE_PATCH: &str = "application/merge-patch+json";
/// The largest patch: four times what all metadata of an object may be.
pub(crate) const PATCH_BYTES_MAX: usize = 4 * Metadata::BYTES_MAX;
/// So much of a member's name is told to whoever sent it.
const NAME_CHARS_MAX: usize = 100;

/// What a patch may carry, for the description of the API.
#[derive(ToSchema)]
#[schema(as = ObjectPatch)]
#[expect(dead_code, reason = "it is read member by member, so that each mistake is told by its name")]
pub(in crate::api) struct PatchBody {
    /// Each name is set, or removed where its value is null; null removes all.
    metadata: Option<std::collections::HashMap<String, Option<String>>>,
    /// Another key, or null for none.
    key: Option<String>,
    #[schema(pattern = "^(hot|cold)$")]
    storage_class: String,
}

/// `PATCH /v1/objects/{id}`
pub(super) async fn patch<S, R, C>(
    service: &Service<S, R, C>,
    head: &RequestHead,
    body: &mut RequestBody<'_>,
    name: ObjectName,
) -> Result<Response<S::Reader>, Problem>
where
    S: BlobStore<Buffer = Block>,
    R: ObjectRepository<Buffer = S::Buffer>,
    C: Clock,
{
    Parameters::parse(head.query(), &[])?;
    refuse_content_coding(head)?;
    if !is_merge_patch(head) {
        let mut problem =
            Problem::new(415, "unsupported_patch", format!("a patch is sent as {MERGE_PATCH} (RFC 7396)"));
        problem.fields.add("Accept-Patch", MERGE_PATCH);
        return Err(problem);
    }
    let patch = parse_patch(&body.read_whole(PATCH_BYTES_MAX).await?)?;
    let precondition = Conditions::of(head).into_precondition();
    let ports = (&service.store, &service.repository, &service.clock);
    let updated = update_object(ports, &name, &patch, &precondition).await?;
    let mut response = Response::json(200, object_json(&updated.object));
    response.fields.add("ETag", format_args!("\"sha256-{}\"", updated.content_hash));
    response.change = service.audit_log.is_on().then(|| Box::new(Change::Updated(updated.object)));
    Ok(response)
}

/// Whether the body says that it is one. Parameters of the type mean nothing here: JSON is UTF-8 (RFC 8259 §8.1).
fn is_merge_patch(head: &RequestHead) -> bool {
    let media_type = head.single("content-type").unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(MERGE_PATCH)
}

/// A value in a patch, as far as there is one that a patch may have.
enum Member {
    Null,
    Text(String),
    /// In the order in which they stand, also where a name stands twice.
    Members(Vec<(String, Member)>),
    Other,
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Member;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Member, E> {
        Ok(Member::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Member, E> {
        Ok(Member::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Member, E> {
        Ok(Member::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Member, A::Error> {
        while list.next_element::<Member>()?.is_some() {}
        Ok(Member::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Member::Members(members))
    }
}

fn parse_patch(body: &[u8]) -> Result<ObjectPatch, Problem> {
    let invalid = |detail: String| Problem::new(400, "invalid_patch", detail);
    let parsed = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    let Member::Members(members) = parsed else { return Err(invalid("it is not a JSON object".to_owned())) };
    refuse_repeated("", &members)?;
    let mut patch = ObjectPatch::default();
    for (name, value) in members {
        match name.as_str() {
            "metadata" => patch.metadata = Some(parse_metadata(value)?),
            "key" => patch.key = Some(parse_key(value)?),
            "storage_class" => patch.storage_class = Some(parse_class(&value)?),
            _ => {
                let detail = "only metadata, key and storage_class can be changed";
                return Err(Problem::parameter("unknown_parameter", &told("", &name), detail));
            }
        }
    }
    Ok(patch)
}

/// RFC 8259 §4 leaves it open what a name that stands twice means.
fn refuse_repeated(prefix: &str, members: &[(String, Member)]) -> Result<(), Problem> {
    let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let detail = "it stands more than once";
            Err(Problem::parameter("repeated_parameter", &told(prefix, pair[0]), detail))
        }
    }
}

fn parse_key(value: Member) -> Result<Option<Key>, Problem> {
    let invalid = |detail: &dyn fmt::Display| Problem::parameter("invalid_parameter", "key", detail);
    match value {
        Member::Null => Ok(None),
        Member::Text(text) => Key::parse(&text).map(Some).map_err(|error| invalid(&error)),
        Member::Members(_) | Member::Other => Err(invalid(&"it is a string, or null")),
    }
}

fn parse_class(value: &Member) -> Result<StorageClass, Problem> {
    let parsed = match value {
        Member::Text(text) => StorageClass::parse(text),
        // Every object has one.
        Member::Null | Member::Members(_) | Member::Other => StorageClass::parse(""),
    };
    parsed.map_err(|error| Problem::parameter("invalid_parameter", "storage_class", error))
}

fn parse_metadata(value: Member) -> Result<MetadataPatch, Problem> {
    let invalid =
        |name: &str, detail: &dyn fmt::Display| Problem::parameter("invalid_metadata", name, detail);
    let members = match value {
        Member::Null => return Ok(MetadataPatch::Clear),
        Member::Members(members) => members,
        Member::Text(_) | Member::Other => return Err(invalid("metadata", &"it is an object, or null")),
    };
    refuse_repeated("metadata.", &members)?;
    let entry = |(name, value): (String, Member)| match value {
        Member::Null => Ok((name, None)),
        // What holds for each entry alone is said with its name, before the object is looked for.
        Member::Text(value) => match Metadata::default().insert(&name, &value) {
            Ok(()) => Ok((name, Some(value))),
            Err(error) => Err(invalid(&told("metadata.", &name), &error)),
        },
        Member::Members(_) | Member::Other => {
            Err(invalid(&told("metadata.", &name), &"it is a string, or null"))
        }
    };
    members.into_iter().map(entry).collect::<Result<_, _>>().map(MetadataPatch::Merge)
}

/// A member's name as it is told.
fn told(prefix: &str, name: &str) -> String {
    prefix.chars().chain(name.chars().take(NAME_CHARS_MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> Result<ObjectPatch, (u16, &'static str, Option<String>)> {
        parse_patch(body.as_bytes()).map_err(|problem| (problem.status, problem.code, problem.parameter))
    }

    #[test]
    fn what_may_be_changed_is_read() {
        let merge = |entries: &[(&str, Option<&str>)]| {
            let own = |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
            Some(MetadataPatch::Merge(entries.iter().map(own).collect()))
        };
        let key = |text: &str| Some(Some(Key::parse(text).unwrap()));
        let none = ObjectPatch::default;
        for (body, patch) in [
            ("{}", none()),
            (" { } ", none()),
            (r#"{"metadata":null}"#, ObjectPatch { metadata: Some(MetadataPatch::Clear), ..none() }),
            (r#"{"metadata":{}}"#, ObjectPatch { metadata: merge(&[]), ..none() }),
            (
                r#"{"metadata":{"b":"\u0031 2","a":null,"Never":null}}"#,
                ObjectPatch {
                    metadata: merge(&[("b", Some("1 2")), ("a", None), ("Never", None)]),
                    ..none()
                },
            ),
            (r#"{"key":"a/ä"}"#, ObjectPatch { key: key("a/ä"), ..none() }),
            (r#"{"key":null}"#, ObjectPatch { key: Some(None), ..none() }),
            (
                r#"{"storage_class":"cold","key":"k"}"#,
                ObjectPatch { storage_class: Some(StorageClass::Cold), key: key("k"), ..none() },
            ),
        ] {
            assert_eq!(parsed(body), Ok(patch), "{body}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_its_name() {
        for body in
            ["", "null", "[]", "1", "\"x\"", "{", "{} x", "{\"key\":\"\u{1}\"}", "{\"key\":\"\\ud800\"}"]
        {
            assert_eq!(parsed(body), Err((400, "invalid_patch", None)), "{body}");
        }
        let long = format!(r#"{{"{}":1}}"#, "n".repeat(NAME_CHARS_MAX + 1));
        let large = format!(r#"{{"metadata":{{"a":"{}"}}}}"#, "x".repeat(Metadata::BYTES_MAX));
        for (body, code, name) in [
            (r#"{"id":null}"#, "unknown_parameter", "id"),
            (r#"{"content_type":"text/plain"}"#, "unknown_parameter", "content_type"),
            (&long, "unknown_parameter", &long[2..2 + NAME_CHARS_MAX]),
            (r#"{"key":"a","key":"b"}"#, "repeated_parameter", "key"),
            (r#"{"metadata":{"a":"1","a":"2"}}"#, "repeated_parameter", "metadata.a"),
            (r#"{"key":""}"#, "invalid_parameter", "key"),
            (r#"{"key":"a//b"}"#, "invalid_parameter", "key"),
            (r#"{"key":1}"#, "invalid_parameter", "key"),
            (r#"{"key":{}}"#, "invalid_parameter", "key"),
            (r#"{"storage_class":null}"#, "invalid_parameter", "storage_class"),
            (r#"{"storage_class":"warm"}"#, "invalid_parameter", "storage_class"),
            (r#"{"storage_class":["hot"]}"#, "invalid_parameter", "storage_class"),
            (r#"{"metadata":"x"}"#, "invalid_metadata", "metadata"),
            (r#"{"metadata":[]}"#, "invalid_metadata", "metadata"),
            (r#"{"metadata":{"A":"x"}}"#, "invalid_metadata", "metadata.A"),
            (r#"{"metadata":{"":"x"}}"#, "invalid_metadata", "metadata."),
            (r#"{"metadata":{"a":"\n"}}"#, "invalid_metadata", "metadata.a"),
            (r#"{"metadata":{"a":"ä"}}"#, "invalid_metadata", "metadata.a"),
            (r#"{"metadata":{"a":1}}"#, "invalid_metadata", "metadata.a"),
            (r#"{"metadata":{"a":{"b":null}}}"#, "invalid_metadata", "metadata.a"),
            (&large, "invalid_metadata", "metadata.a"),
        ] {
            assert_eq!(parsed(body), Err((400, code, Some(name.to_owned()))), "{body}");
        }
        let deep = format!("{{\"metadata\":{}", "[".repeat(10_000));
        assert_eq!(parsed(&deep), Err((400, "invalid_patch", None)), "nesting has a limit");
    }
}
