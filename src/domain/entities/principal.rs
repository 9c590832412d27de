//! Who asks, and what they may do: decided by what a credential says, and by nothing else.

use std::fmt;
use std::sync::Arc;

use smol_str::SmolStr;

use super::{ApiKeyId, Scope};
use crate::domain::errors::InvalidValue;
use crate::domain::value_objects::{Namespace, TenantId};

/// What a credential lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Look at objects and lists.
    Read,
    /// Store objects.
    Write,
    /// Forget objects.
    Delete,
    /// Look after the server itself.
    Admin,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Delete, Self::Admin];

    /// Reads the word that stands in a credential.
    ///
    /// # Errors
    /// [`InvalidValue::Permission`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let named = |permission: &Self| permission.as_str() == text;
        Self::ALL.into_iter().find(named).ok_or(InvalidValue::Permission)
    }

    /// The word that stands in a credential.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some permissions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// All that there are.
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Reads words with spaces between (RFC 8693 §4.2). Words that mean nothing here are other parties' business.
    pub fn of_words(text: &str) -> Self {
        text.split(' ').filter_map(|word| Permission::parse(word).ok()).collect()
    }

    /// Whether one of them is this one.
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Those of them that are set, in order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

/// Words with spaces between.
impl fmt::Display for Permissions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, permission) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(formatter, "{space}{}", permission.as_str())?;
        }
        Ok(())
    }
}

/// Which objects a credential reaches, whatever it may do with them. A clone shares what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reach {
    /// The one tenant; `None` is all of them.
    tenant_id: Option<TenantId>,
    /// These namespaces; `None` is all of them.
    namespaces: Option<Arc<[Namespace]>>,
}

impl Reach {
    /// What stands for all tenants in a credential: the operator's.
    pub const EVERY_TENANT: &'static str = "*";

    /// Everything there is.
    pub const fn everything() -> Self {
        Self { tenant_id: None, namespaces: None }
    }

    /// The objects of one tenant, or of all, in these namespaces, or in all.
    pub fn new(tenant_id: Option<TenantId>, namespaces: Option<Vec<Namespace>>) -> Self {
        Self { tenant_id, namespaces: namespaces.map(Arc::from) }
    }

    /// Reads what a credential says: a tenant id or [`EVERY_TENANT`](Self::EVERY_TENANT), and the names of namespaces.
    ///
    /// # Errors
    /// [`InvalidValue::TenantId`] or [`InvalidValue::Namespace`].
    pub fn parse<'n>(
        tenant_id: &str,
        namespaces: Option<impl IntoIterator<Item = &'n str>>,
    ) -> Result<Self, InvalidValue> {
        let tenant_id = match tenant_id {
            Self::EVERY_TENANT => None,
            named => Some(TenantId::parse(named)?),
        };
        let namespaces = match namespaces {
            Some(names) => Some(names.into_iter().map(Namespace::parse).collect::<Result<_, _>>()?),
            None => None,
        };
        Ok(Self::new(tenant_id, namespaces))
    }

    /// The one tenant, or `None` where it is all of them.
    pub fn tenant_id(&self) -> Option<&TenantId> {
        self.tenant_id.as_ref()
    }

    /// The tenant as a credential names it.
    pub fn tenant(&self) -> &str {
        self.tenant_id.as_ref().map_or(Self::EVERY_TENANT, |tenant_id| tenant_id.as_str())
    }

    /// The namespaces, or `None` where it is all of them.
    pub fn namespaces(&self) -> Option<&[Namespace]> {
        self.namespaces.as_deref()
    }

    /// Whether nothing is out of it.
    pub fn is_everything(&self) -> bool {
        self.tenant_id.is_none() && self.namespaces.is_none()
    }

    /// What of it is of this tenant; `None` where nothing is.
    pub fn of_tenant(&self, tenant_id: &TenantId) -> Option<Self> {
        let is_within = self.tenant_id.as_ref().is_none_or(|own| own == tenant_id);
        is_within.then(|| Self { tenant_id: Some(tenant_id.clone()), namespaces: self.namespaces.clone() })
    }

    /// Whether objects of this scope are within.
    pub fn includes(&self, scope: &Scope) -> bool {
        self.tenant_id.as_ref().is_none_or(|own| *own == scope.tenant_id)
            && self.namespaces.as_ref().is_none_or(|own| own.contains(&scope.namespace))
    }
}

/// A name for a credential that gives nothing of it away: for logs, and for counting what it asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialId(SmolStr);

impl CredentialId {
    /// The most bytes that such a name has.
    pub const BYTES_MAX: usize = 80;

    /// A name of a kind of credential. What is too long or not plainly visible stands as `plain` gives it instead.
    pub fn new(kind: &str, name: &str, plain: impl FnOnce() -> String) -> Self {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        let fits = !name.is_empty() && kind.len() + 1 + name.len() <= Self::BYTES_MAX;
        let text = if is_plain && fits { format!("{kind}:{name}") } else { format!("{kind}:{}", plain()) };
        Self(text.into())
    }

    /// The name of an API key.
    pub fn of_api_key(id: ApiKeyId) -> Self {
        Self::new("jsk", &id.to_string(), String::new)
    }

    /// The name as text: visible ASCII without quotes or backslashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// By which credential; none where none is asked for.
    pub credential_id: Option<CredentialId>,
    /// Which objects it reaches.
    pub reach: Reach,
    /// What it may do.
    pub permissions: Permissions,
}

/// Why a request is refused, although it is known who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// The credential does not permit this.
    Permission(Permission),
    /// The tenant or the namespace is out of its reach.
    Scope,
}

impl Principal {
    /// Anybody, where no credentials are asked for.
    pub fn anybody() -> Self {
        Self { credential_id: None, reach: Reach::everything(), permissions: Permissions::all() }
    }

    /// Somebody who has shown nothing, where credentials are asked for.
    pub fn nobody() -> Self {
        let reach = Reach::new(None, Some(Vec::new()));
        Self { credential_id: None, reach, permissions: Permissions::default() }
    }

    /// Whether it may do this at all.
    ///
    /// # Errors
    /// [`Forbidden::Permission`].
    pub fn check_permission(&self, needed: Permission) -> Result<(), Forbidden> {
        match self.permissions.contains(needed) {
            true => Ok(()),
            false => Err(Forbidden::Permission(needed)),
        }
    }

    /// Whether it may name this scope.
    ///
    /// # Errors
    /// [`Forbidden::Scope`].
    pub fn check_scope(&self, scope: &Scope) -> Result<(), Forbidden> {
        match self.reach.includes(scope) {
            true => Ok(()),
            false => Err(Forbidden::Scope),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespace: &str, tenant_id: &str) -> Scope {
        Scope {
            namespace: Namespace::parse(namespace).unwrap(),
            tenant_id: TenantId::parse(tenant_id).unwrap(),
        }
    }

    #[test]
    fn a_reach_ends_at_its_tenant_and_its_namespaces() {
        let own = scope("models", "acme");
        for (tenant_id, namespaces, includes) in [
            ("acme", None, true),
            ("acme", Some(vec!["models"]), true),
            ("acme", Some(vec!["data", "models"]), true),
            ("acme", Some(vec!["data"]), false),
            ("acme", Some(vec![]), false),
            ("Acme", None, false),
            ("acme2", None, false),
            ("*", None, true),
            ("*", Some(vec!["models"]), true),
            ("*", Some(vec!["data"]), false),
        ] {
            let reach = Reach::parse(tenant_id, namespaces.clone()).unwrap();
            assert_eq!(reach.includes(&own), includes, "{tenant_id} {namespaces:?}");
            assert_eq!(reach.is_everything(), tenant_id == "*" && namespaces.is_none());
            assert_eq!(reach.tenant(), tenant_id);
        }
        for (tenant_id, namespaces) in [("", None), ("**", None), ("a b", None), ("acme", Some(vec!["*"]))] {
            assert!(Reach::parse(tenant_id, namespaces).is_err());
        }
    }

    #[test]
    fn a_principal_may_do_what_its_permissions_say_and_nothing_else() {
        let principal =
            Principal { permissions: Permissions::of_words("read  openid delete"), ..Principal::anybody() };
        assert_eq!(principal.permissions.to_string(), "read delete");
        for (permission, may) in [
            (Permission::Read, true),
            (Permission::Write, false),
            (Permission::Delete, true),
            (Permission::Admin, false),
        ] {
            let expected = if may { Ok(()) } else { Err(Forbidden::Permission(permission)) };
            assert_eq!(principal.check_permission(permission), expected);
        }
        assert_eq!(Permissions::of_words("READ read,write").iter().count(), 0);
        assert_eq!(Permissions::all().to_string(), "read write delete admin");
    }

    #[test]
    fn the_name_of_a_credential_is_short_and_plain() {
        let name = |text: &str| CredentialId::new("jwt", text, || "#".into()).as_str().to_owned();
        assert_eq!(name("alice@example"), "jwt:alice@example");
        let longest = "x".repeat(CredentialId::BYTES_MAX - 4);
        assert_eq!(name(&longest), format!("jwt:{longest}"));
        for text in ["", "a b", "a\"b", "a\\b", "ä", "a\nb", &format!("{longest}x")] {
            assert_eq!(name(text), "jwt:#", "{text:?}");
        }
    }
}
