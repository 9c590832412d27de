//! What a server has below a prefix.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::address::{Address, Prefix, percent_encode};
use super::answers::{Page, RemoteObject};
use super::errors::ClientError;
use super::remote::Remote;
use crate::domain::entities::KeyPath;
use crate::domain::value_objects::Key;

/// Objects asked for at once: the most that a server gives.
const PAGE_OBJECTS: u32 = 1000;

/// The newest versions of keys, and versions without one. All in memory: about half a kilobyte each.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By key.
    pub(super) keyed: BTreeMap<String, RemoteObject>,
    /// Newest first; only where everything was asked for.
    pub(super) keyless: Vec<RemoteObject>,
}

/// All that is below a prefix.
///
/// A server that can is asked for these keys alone. Any other shows all that the tenant has in that namespace, newest
/// first, and the rest is left out here.
pub(super) fn list_below(remote: &Remote, prefix: &Prefix) -> Result<Listing, ClientError> {
    let mut listing = Listing::default();
    each_below(remote, prefix, |object, order| {
        listing.add(object, order);
        true
    })?;
    Ok(listing)
}

/// The newest version of one key, with all that the server tells of it.
pub(super) fn find(remote: &Remote, path: &KeyPath) -> Result<RemoteObject, ClientError> {
    let prefix = Prefix { scope: path.scope.clone(), text: path.key.as_str().to_owned() };
    let mut newest: Option<RemoteObject> = None;
    each_below(remote, &prefix, |object, order| {
        if object.key.as_deref() != Some(path.key.as_str()) {
            // Sorted by key, the key itself comes before all that only begin with it.
            return order == Order::NewestFirst;
        }
        if newest.as_ref().is_none_or(|other| other.id < object.id) {
            newest = Some(object);
        }
        order == Order::ByKey
    })?;
    newest.ok_or_else(|| ClientError::NotFound(Address::Key(path.clone()).to_string()))
}

impl Listing {
    fn add(&mut self, object: RemoteObject, order: Order) {
        let Some(key) = &object.key else {
            self.keyless.push(object);
            return;
        };
        match self.keyed.entry(key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(object);
            }
            // Ids made later sort later, in whatever order the versions of a key are listed.
            Entry::Occupied(mut entry) if order == Order::ByKey && entry.get().id < object.id => {
                entry.insert(object);
            }
            Entry::Occupied(_) => {}
        }
    }
}

/// In which order a server lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Everything, and the newest version of a key before the others.
    NewestFirst,
    /// What is below the prefix alone.
    ByKey,
}

/// Shows every committed object below a prefix to `take`, until that has enough.
fn each_below(
    remote: &Remote,
    prefix: &Prefix,
    mut take: impl FnMut(RemoteObject, Order) -> bool,
) -> Result<(), ClientError> {
    let scope = &prefix.scope;
    let everything = format!(
        "/v1/objects?namespace={}&tenant_id={}&limit={PAGE_OBJECTS}",
        scope.namespace, scope.tenant_id
    );
    let mut query = everything.clone();
    if !prefix.text.is_empty() {
        query.push_str("&prefix=");
        percent_encode(&prefix.text, &mut query);
    }
    let what = prefix.to_string();
    let mut cursor: Option<String> = None;
    loop {
        let mut target = query.clone();
        if let Some(cursor) = &cursor {
            target.push_str("&cursor=");
            percent_encode(cursor, &mut target);
        }
        let page: Page = match remote.get_json(&target, &what) {
            Err(ClientError::Declined { parameter: Some(name), .. })
                if name == "prefix" && query != everything =>
            {
                query.clone_from(&everything);
                continue;
            }
            page => page?,
        };
        let order = if query == everything { Order::NewestFirst } else { Order::ByKey };
        for object in page.objects {
            // Such a key could lead out of a directory, and no server of this kind has it.
            if object.key.as_deref().is_some_and(|key| Key::parse(key).is_err()) {
                return Err(ClientError::Foreign { what, reason: "it lists a key that cannot be" });
            }
            let below = prefix.text.is_empty()
                || object.key.as_deref().is_some_and(|key| key.starts_with(&prefix.text));
            if below && !take(object, order) {
                return Ok(());
            }
        }
        if page.next_cursor.is_none() {
            return Ok(());
        }
        if page.next_cursor == cursor {
            return Err(ClientError::Foreign { what, reason: "its pages do not end" });
        }
        cursor = page.next_cursor;
    }
}
