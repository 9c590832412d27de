//! How objects are named on the command line, and the paths that these names become.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use crate::domain::entities::{KeyPath, Scope};
use crate::domain::value_objects::{Key, Namespace, ObjectId, TenantId};

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// `NAMESPACE/TENANT/KEY`: the newest version of a key. The key is taken as it stands: nothing in it is decoded.
    Key(KeyPath),
    /// `NAMESPACE/TENANT/PREFIX/`, or `NAMESPACE/TENANT` for everything there.
    Below(Prefix),
    /// `id:ID`: one version. No namespace has a colon, so that this is nothing else.
    Id(ObjectId),
}

/// The keys of a scope that begin in the same way, up to a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) scope: Scope,
    /// Empty, or ending in a slash.
    pub(super) text: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(id) = text.strip_prefix("id:") {
            return ObjectId::parse(id).map(Self::Id).map_err(|error| error.to_string());
        }
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default();
        let (namespace, tenant_id, rest) = (part(), part(), part());
        if tenant_id.is_empty() {
            return Err("an address is NAMESPACE/TENANT/KEY, NAMESPACE/TENANT/PREFIX/ or id:ID".to_owned());
        }
        let scope = Scope {
            namespace: Namespace::parse(namespace).map_err(|error| error.to_string())?,
            tenant_id: TenantId::parse(tenant_id).map_err(|error| error.to_string())?,
        };
        if rest.is_empty() {
            return Ok(Self::Below(Prefix { scope, text: String::new() }));
        }
        // A prefix is a key that has yet to be finished, so that its segments are held to the same rule.
        let key = Key::parse(rest.strip_suffix('/').unwrap_or(rest)).map_err(|error| error.to_string())?;
        Ok(match rest.ends_with('/') {
            true => Self::Below(Prefix { scope, text: rest.to_owned() }),
            false => Self::Key(KeyPath { scope, key }),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(path) => formatter.write_str(&address_of(path)),
            Self::Below(prefix) => prefix.fmt(formatter),
            Self::Id(id) => write!(formatter, "id:{id}"),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.scope.namespace, self.scope.tenant_id, self.text)
    }
}

impl Prefix {
    /// The key of what is called `name` below it.
    ///
    /// # Errors
    /// Why that is no key, in words.
    pub(super) fn join(&self, name: &str) -> Result<KeyPath, String> {
        let key = Key::parse(&format!("{}{name}", self.text)).map_err(|error| error.to_string())?;
        Ok(KeyPath { scope: self.scope.clone(), key })
    }
}

/// `NAMESPACE/TENANT/KEY`
pub(super) fn address_of(KeyPath { scope, key }: &KeyPath) -> String {
    format!("{}/{}/{key}", scope.namespace, scope.tenant_id)
}

/// The path and query of a key.
pub(super) fn target_of_key(KeyPath { scope, key }: &KeyPath) -> String {
    let mut target = format!("/v1/keys/{}/{}/", scope.namespace, scope.tenant_id);
    percent_encode(key.as_str(), &mut target);
    target
}

/// The path of a version.
pub(super) fn target_of_id(id: ObjectId) -> String {
    format!("/v1/objects/{id}")
}

/// Appends `text` as it stands in a path or the value of a query: what is unreserved (RFC 3986 §2.3) and the slash stay,
/// anything else is encoded, `+` too.
pub(super) fn percent_encode(text: &str, target: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            target.push(byte as char);
        } else {
            // Writing into a string cannot fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        text.parse()
    }

    #[test]
    fn keys_prefixes_and_ids_are_told_apart() {
        let id = ObjectId::generate();
        assert_eq!(parse(&format!("id:{id}")), Ok(Address::Id(id)));
        let Ok(Address::Key(path)) = parse("models/acme/llama/a b%20+.bin") else { panic!("a key") };
        assert_eq!(path.key.as_str(), "llama/a b%20+.bin");
        for (text, prefix) in
            [("models/acme", ""), ("models/acme/", ""), ("models/acme/a/", "a/"), ("m/t/a/b/", "a/b/")]
        {
            let Ok(Address::Below(below)) = parse(text) else { panic!("{text} is a prefix") };
            assert_eq!(below.text, prefix);
        }
        for text in ["models/acme/k", "models/acme/a/", "models/acme/", &format!("id:{id}")] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "models",
            "models/",
            "Models/acme/k",
            "models/-a/k",
            "models/acme//",
            "models/acme//k",
            "models/acme/a//",
            "models/acme/../k",
            "models/acme/a/..",
            "models/acme/a\nb",
            "id:",
            "id:1",
            "/models/acme/k",
            "http://h/k",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_is_encoded_in_a_path() {
        let Ok(Address::Key(path)) = parse("models/acme/ä b/%+#?&=\"'~._-") else { panic!("a key") };
        assert_eq!(target_of_key(&path), "/v1/keys/models/acme/%C3%A4%20b/%25%2B%23%3F%26%3D%22%27~._-");
    }
}
