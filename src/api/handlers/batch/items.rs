//! What the JSON bodies of batches ask for. Runs beside the cores.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::super::super::archive_transfer::RESULTS_NAME;
use super::super::super::batches::BATCH_ITEMS_MAX;
use super::super::super::errors::Problem;
use super::super::super::http1::{RangeHeader, parse_range};
use super::super::super::signed_url::parse_digest;
use super::super::parse_object;
use crate::application::ports::ObjectName;
use crate::domain::entities::{KeyPath, Reach, Scope};
use crate::domain::value_objects::{ContentHash, ContentType, Key, ObjectId, RangeRequest};

/// What is to be fetched, as it is written.
#[derive(Deserialize, ToSchema)]
#[schema(as = BatchGetRequest)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct GetBody<'b> {
    #[serde(borrow, deserialize_with = "at_most_so_many")]
    #[schema(max_items = 10_000)]
    items: Vec<GetItem<'b>>,
}

/// One object by its id, by its key, or by what it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = BatchGetItem)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct GetItem<'b> {
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    id: Option<Cow<'b, str>>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    key: Option<Cow<'b, str>>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^sha256:[0-9a-f]{64}$")]
    digest: Option<Cow<'b, str>>,
    /// `0-99`, `100-` or `-100`; with `bytes=` before it or without.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^(bytes=)?([0-9]+-[0-9]*|-[0-9]+)$")]
    range: Option<Cow<'b, str>>,
    /// Its name in the archive: the key, the id or the digits of the digest, if nothing is said.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1024)]
    name: Option<Cow<'b, str>>,
}

/// What is to be forgotten, as it is written.
#[derive(Deserialize, ToSchema)]
#[schema(as = BatchDeleteRequest)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct DeleteBody<'b> {
    #[serde(borrow, deserialize_with = "at_most_so_many")]
    #[schema(max_items = 10_000)]
    items: Vec<DeleteItem<'b>>,
}

/// One object by its id, or all versions of a key.
#[derive(Deserialize, ToSchema)]
#[schema(as = BatchDeleteItem)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct DeleteItem<'b> {
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    id: Option<Cow<'b, str>>,
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    key: Option<Cow<'b, str>>,
}

/// What is to become an object of a content that is there, as it is written.
#[derive(Deserialize, ToSchema)]
#[schema(as = BatchReferRequest)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ReferBody<'b> {
    #[serde(borrow, deserialize_with = "at_most_so_many")]
    #[schema(max_items = 10_000)]
    items: Vec<ReferItem<'b>>,
}

/// A key, which stands once in the list, and the content that it is to name.
#[derive(Deserialize, ToSchema)]
#[schema(as = BatchReferItem)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ReferItem<'b> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    key: Cow<'b, str>,
    #[serde(borrow)]
    #[schema(value_type = String, pattern = "^sha256:[0-9a-f]{64}$")]
    digest: Cow<'b, str>,
    /// `application/octet-stream`, if nothing is said.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 255)]
    content_type: Option<Cow<'b, str>>,
}

/// A list that is given up before it is longer than it may be: what is short in a body is not so in memory.
fn at_most_so_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Items<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == BATCH_ITEMS_MAX {
                    return Err(A::Error::custom(format_args!(
                        "there are more than {BATCH_ITEMS_MAX} items"
                    )));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_seq(Items(PhantomData))
}

/// Something to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) object: ObjectName,
    /// Where it goes in the archive.
    pub(super) name: Key,
    pub(super) range: Option<RangeRequest>,
}

/// A content that gets a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// The key, without what is before all of them. Whether it can be one is said of each.
    pub(super) name: String,
    pub(super) content_hash: ContentHash,
    pub(super) content_type: Option<ContentType>,
}

/// Reads which contents are to get which names.
pub(super) fn parse_references(body: &[u8]) -> Result<Vec<Reference>, Problem> {
    let ReferBody { items } = parse(body)?;
    let mut names = HashSet::with_capacity(items.len());
    if let Some(index) = items.iter().position(|item| !names.insert(&*item.key)) {
        return Err(invalid(index, "key", "it stands twice, and nothing says which of the two is the newer"));
    }
    let references = items.iter().enumerate().map(|(index, item)| {
        let content_hash = parse_digest(&item.digest)
            .ok_or_else(|| invalid(index, "digest", "it is sha256: and 64 hexadecimal digits"))?;
        let content_type = item.content_type.as_deref().map(ContentType::parse).transpose();
        let content_type = content_type.map_err(|error| invalid(index, "content_type", error))?;
        Ok(Reference { name: item.key.clone().into_owned(), content_hash, content_type })
    });
    references.collect()
}

/// Reads what a `get` asks for, in this scope if it names keys.
pub(super) fn parse_wanted(
    body: &[u8],
    scope: Option<&Scope>,
    reach: &Reach,
) -> Result<Vec<Wanted>, Problem> {
    let GetBody { items } = parse(body)?;
    let wanted = items.into_iter().enumerate().map(|(index, item)| {
        let object = match (&item.digest, &item.id, &item.key) {
            (Some(digest), None, None) => parse_content(index, digest, scope, reach)?,
            (Some(_), _, _) => {
                return Err(invalid(index, "digest", "an item has either an id, a key or a digest"));
            }
            (None, id, key) => parse_name(index, (id.as_deref(), key.as_deref()), scope, reach)?,
        };
        let range = item.range.map(|text| match parse_range(&prefixed(&text)) {
            RangeHeader::One(range) => Ok(range),
            RangeHeader::Ignored | RangeHeader::Several(_) => {
                Err(invalid(index, "range", "it is one range of bytes: 0-99, 100- or -100"))
            }
        });
        let name = match (&item.name, &object) {
            (Some(name), _) => Key::parse(name).map_err(|error| invalid(index, "name", error))?,
            (None, ObjectName::Key(path)) => path.key.clone(),
            (None, ObjectName::Id(id) | ObjectName::IdWithin(id, _)) => {
                Key::parse(&id.to_string()).map_err(|error| invalid(index, "id", error))?
            }
            (None, ObjectName::Content(hash, _)) => {
                Key::parse(&hash.to_string()).map_err(|error| invalid(index, "digest", error))?
            }
        };
        if is_results(name.as_str()) {
            return Err(invalid(index, "name", "the results stand there"));
        }
        Ok(Wanted { object, name, range: range.transpose()? })
    });
    wanted.collect()
}

/// Reads what a `delete` asks for, in this scope if it names keys.
pub(super) fn parse_unwanted(
    body: &[u8],
    scope: Option<&Scope>,
    reach: &Reach,
) -> Result<Vec<ObjectName>, Problem> {
    let DeleteBody { items } = parse(body)?;
    let names = items
        .iter()
        .enumerate()
        .map(|(index, item)| parse_name(index, (item.id.as_deref(), item.key.as_deref()), scope, reach));
    names.collect()
}

fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Problem> {
    let unreadable = |detail: String| Problem::new(400, "invalid_batch", detail);
    parse_object(body).map_err(unreadable)
}

fn parse_name(
    index: usize,
    (id, key): (Option<&str>, Option<&str>),
    scope: Option<&Scope>,
    reach: &Reach,
) -> Result<ObjectName, Problem> {
    match (id, key) {
        (Some(id), None) => {
            let id = ObjectId::parse(id).map_err(|error| invalid(index, "id", error))?;
            Ok(ObjectName::of_id(id, reach))
        }
        (None, Some(key)) => {
            let key = Key::parse(key).map_err(|error| invalid(index, "key", error))?;
            let Some(scope) = scope.cloned() else {
                let reason = "keys need a namespace and a tenant";
                return Err(Problem::parameter("missing_parameter", "namespace", reason));
            };
            Ok(ObjectName::Key(KeyPath { scope, key }))
        }
        _ => Err(invalid(index, "id", "an item has either an id or a key")),
    }
}

/// A content that the tenant of the scope has, in whichever namespace within reach.
fn parse_content(
    index: usize,
    digest: &str,
    scope: Option<&Scope>,
    reach: &Reach,
) -> Result<ObjectName, Problem> {
    let hash = parse_digest(digest)
        .ok_or_else(|| invalid(index, "digest", "it is sha256: and 64 hexadecimal digits"))?;
    let Some(scope) = scope else {
        let reason = "digests need a namespace and a tenant";
        return Err(Problem::parameter("missing_parameter", "tenant_id", reason));
    };
    let reach = reach.of_tenant(&scope.tenant_id).ok_or_else(Problem::not_found)?;
    Ok(ObjectName::Content(hash, reach))
}

fn prefixed(range: &str) -> Cow<'_, str> {
    if range.starts_with("bytes=") { Cow::Borrowed(range) } else { Cow::Owned(format!("bytes={range}")) }
}

/// Whether a file under this name would be in the way of the results, or they in its.
fn is_results(name: &str) -> bool {
    let directory = RESULTS_NAME.split('/').next();
    name.split('/').next() == directory
}

fn invalid(index: usize, member: &str, reason: impl fmt::Display) -> Problem {
    Problem::parameter("invalid_batch", &format!("items[{index}].{member}"), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::fakes::a_scope;

    const ID: &str = "0193a5c0-0000-7000-8000-000000000000";

    fn wanted(body: &str) -> Result<Vec<Wanted>, Problem> {
        parse_wanted(body.as_bytes(), Some(&a_scope("models", "acme")), &Reach::everything())
    }

    fn of_items(items: &str) -> String {
        format!(r#"{{"items":[{items}]}}"#)
    }

    #[test]
    fn items_are_named_by_what_they_are_unless_they_say_so() {
        let body = of_items(&format!(
            r#"{{"id":"{ID}"}},{{"key":"a/b","range":"0-9"}},{{"key":"a\/b","range":"bytes=-5","name":"c"}}"#
        ));
        let wanted = wanted(&body).unwrap();
        let names: Vec<_> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
        assert_eq!(names, [ID, "a/b", "c"]);
        let ranges: Vec<_> = wanted.iter().map(|wanted| wanted.range).collect();
        let (first, last) = (RangeRequest::FromTo { first: 0, last: 9 }, RangeRequest::Suffix { length: 5 });
        assert_eq!(ranges, [None, Some(first), Some(last)]);
        assert_eq!(wanted[1].object, wanted[2].object);
        assert!(self::wanted(&of_items("")).unwrap().is_empty());
    }

    #[test]
    fn what_no_item_may_be_is_refused_by_its_place() {
        let refused = |item: &str| {
            let problem = wanted(&of_items(&format!(r#"{{"key":"k"}},{item}"#))).unwrap_err();
            (problem.status, problem.code, problem.parameter)
        };
        for (item, member) in [
            ("{}", "id"),
            (r#"{"id":"1"}"#, "id"),
            (r#"{"id":"0193a5c0-0000-7000-8000-000000000000","key":"k"}"#, "id"),
            (r#"{"key":"../k"}"#, "key"),
            (r#"{"key":""}"#, "key"),
            (r#"{"digest":"sha256:00"}"#, "digest"),
            (
                r#"{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","key":"k"}"#,
                "digest",
            ),
            (r#"{"key":"k","range":"9-1"}"#, "range"),
            (r#"{"key":"k","range":"0-1,3-4"}"#, "range"),
            (r#"{"key":"k","range":""}"#, "range"),
            (r#"{"key":"k","name":"/etc/passwd"}"#, "name"),
            (r#"{"key":"k","name":"a/../b"}"#, "name"),
            (r#"{"key":"k","name":".just_storage/results.jsonl"}"#, "name"),
            (r#"{"key":"k","name":".just_storage"}"#, "name"),
            (r#"{"key":".just_storage/x"}"#, "name"),
        ] {
            let expected = (400, "invalid_batch", Some(format!("items[1].{member}")));
            assert_eq!(refused(item), expected, "{item}");
        }
        for item in
            [r#""k""#, "1", "null", r#"{"key":1}"#, r#"{"key":"k","x":1}"#, r#"{"key":"k","key":"k"}"#]
        {
            assert_eq!(refused(item), (400, "invalid_batch", None), "{item}");
        }
        for body in ["", "[]", "{", "{}", r#"{"items":{}}"#, r#"{"items":[]} x"#, r#"{"items":[],"x":1}"#] {
            assert_eq!(wanted(body).unwrap_err().code, "invalid_batch", "{body}");
        }
        let without_scope = parse_wanted(of_items(r#"{"key":"k"}"#).as_bytes(), None, &Reach::everything());
        assert_eq!(without_scope.unwrap_err().parameter.as_deref(), Some("namespace"));
    }

    #[test]
    fn references_are_keys_and_contents_and_what_they_are() {
        let (one, two) = (format!("sha256:{:064x}", 1), format!("sha256:{:064x}", 2));
        let item =
            |key: &str, digest: &str, rest: &str| format!(r#"{{"key":"{key}","digest":"{digest}"{rest}}}"#);
        let body = [item("a", &one, ""), item("../b", &one, r#","content_type":"text/plain""#)].join(",");
        let references = parse_references(of_items(&body).as_bytes()).unwrap();
        let hash = parse_digest(&one).unwrap();
        let reference = |name: &str, content_type: Option<&str>| Reference {
            name: name.to_owned(),
            content_hash: hash,
            content_type: content_type.map(|text| ContentType::parse(text).unwrap()),
        };
        // What is no key is told of by itself, as a file's name is.
        assert_eq!(references, [reference("a", None), reference("../b", Some("text/plain"))]);
        assert!(parse_references(of_items("").as_bytes()).unwrap().is_empty());
        for (second, member) in [
            (item("a", &two, ""), Some("items[1].key")),
            (item("b", &one[7..], ""), Some("items[1].digest")),
            (item("b", &one, r#","content_type":"x""#), Some("items[1].content_type")),
            (r#"{"key":"b"}"#.to_owned(), None),
            (format!(r#"{{"digest":"{one}"}}"#), None),
            (item("b", &one, r#","x":1"#), None),
        ] {
            let problem = parse_references(of_items(&[item("a", &one, ""), second].join(",")).as_bytes());
            let problem = problem.unwrap_err();
            assert_eq!((problem.code, problem.parameter.as_deref()), ("invalid_batch", member));
        }
        let of_count = |count: usize| {
            let items: Vec<_> = (0..count).map(|number| item(&number.to_string(), &one, "")).collect();
            parse_references(of_items(&items.join(",")).as_bytes())
        };
        assert_eq!(of_count(BATCH_ITEMS_MAX).unwrap().len(), 10_000);
        assert!(of_count(BATCH_ITEMS_MAX + 1).is_err());
    }

    #[test]
    fn a_batch_has_ten_thousand_items_at_most() {
        let of_count = |count: usize| of_items(&vec![r#"{"key":"k"}"#; count].join(","));
        assert_eq!(wanted(&of_count(10_000)).unwrap().len(), BATCH_ITEMS_MAX);
        let error = wanted(&of_count(10_001)).unwrap_err();
        assert!(error.code == "invalid_batch" && error.detail.contains("more than 10000"), "{error:?}");
        let unwanted = |count| {
            let body = of_count(count);
            parse_unwanted(body.as_bytes(), Some(&a_scope("models", "acme")), &Reach::everything())
        };
        assert_eq!(unwanted(10_000).unwrap().len(), BATCH_ITEMS_MAX);
        assert!(unwanted(10_001).is_err());
    }
}
