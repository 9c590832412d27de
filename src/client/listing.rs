//! What a server has below a prefix.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

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
    /// What keys below have in common up to the next slash, where the server has shown that in their place.
    pub(super) directories: BTreeSet<String>,
}

/// How much of what is below a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// All of it.
    Everything,
    /// What is there up to the next slash.
    NextSlash,
    /// The first key alone, where keys come in order.
    First,
}

/// All that is below a prefix.
///
/// A server that can is asked for these keys alone. Any other shows all that the tenant has in that namespace, newest
/// first, and the rest is left out here.
pub(super) fn list_below(remote: &Remote, prefix: &Prefix) -> Result<Listing, ClientError> {
    list_to(remote, prefix, Depth::Everything)
}

/// What is below a prefix up to the next slash; all of it, where the server shows no less. Below the empty prefix that is
/// everything: what has no key is shown there too, and no listing by key has it.
pub(super) fn list_level(remote: &Remote, prefix: &Prefix) -> Result<Listing, ClientError> {
    list_to(remote, prefix, Depth::NextSlash)
}

fn list_to(remote: &Remote, prefix: &Prefix, depth: Depth) -> Result<Listing, ClientError> {
    let mut listing = Listing::default();
    let directories = each_below(remote, prefix, depth, |object, order| {
        listing.add(object, order);
        true
    })?;
    listing.directories = directories;
    Ok(listing)
}

/// The newest version of one key, with all that the server tells of it.
pub(super) fn find(remote: &Remote, path: &KeyPath) -> Result<RemoteObject, ClientError> {
    let prefix = Prefix { scope: path.scope.clone(), text: path.key.as_str().to_owned() };
    let mut newest: Option<RemoteObject> = None;
    each_below(remote, &prefix, Depth::First, |object, order| {
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

/// What there is to say of an address that was not found: `put` takes a directory with a slash at its end and without one, so
/// that whoever leaves it out elsewhere is told what lies below.
pub(super) fn or_below(error: ClientError, remote: &Remote, address: &Address) -> ClientError {
    let (ClientError::NotFound(_), Address::Key(KeyPath { scope, key })) = (&error, address) else {
        return error;
    };
    let prefix = Prefix { scope: scope.clone(), text: format!("{key}/") };
    let mut is_there = false;
    let looked = each_below(remote, &prefix, Depth::First, |_, _| {
        is_there = true;
        false
    });
    if looked.is_ok() && is_there { ClientError::OnlyBelow(address.to_string()) } else { error }
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

/// Shows every committed object below a prefix to `take`, until that has enough, and gives what stands in the place of
/// others.
fn each_below(
    remote: &Remote,
    prefix: &Prefix,
    depth: Depth,
    mut take: impl FnMut(RemoteObject, Order) -> bool,
) -> Result<BTreeSet<String>, ClientError> {
    let everything = query_of(prefix, PAGE_OBJECTS);
    let mut query = match depth {
        Depth::First => query_of(prefix, 1),
        Depth::Everything | Depth::NextSlash => everything.clone(),
    };
    if !prefix.text.is_empty() {
        query.push_str("&prefix=");
        percent_encode(&prefix.text, &mut query);
        if depth == Depth::NextSlash {
            query.push_str("&delimiter=/");
        }
    }
    let what = prefix.to_string();
    let foreign = |reason| ClientError::Foreign { what: what.clone(), reason };
    let mut directories = BTreeSet::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut target = query.clone();
        if let Some(cursor) = &cursor {
            target.push_str("&cursor=");
            percent_encode(cursor, &mut target);
        }
        let page: Page = match remote.get_json(&target, &what) {
            Err(ClientError::Declined { parameter: Some(name), .. })
                if matches!(name.as_str(), "prefix" | "delimiter") && query != everything =>
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
                return Err(foreign("it lists a key that cannot be"));
            }
            let below = prefix.text.is_empty()
                || object.key.as_deref().is_some_and(|key| key.starts_with(&prefix.text));
            if below && !take(object, order) {
                return Ok(directories);
            }
        }
        for directory in page.common_prefixes {
            let key = directory.strip_suffix('/').filter(|_| directory.starts_with(&prefix.text));
            if key.is_none_or(|key| Key::parse(key).is_err()) {
                return Err(foreign("it lists a prefix that cannot be"));
            }
            directories.insert(directory);
        }
        if page.next_cursor.is_none() {
            return Ok(directories);
        }
        if page.next_cursor == cursor {
            return Err(foreign("its pages do not end"));
        }
        cursor = page.next_cursor;
    }
}

fn query_of(Prefix { scope, .. }: &Prefix, page_objects: u32) -> String {
    let (namespace, tenant_id) = (&scope.namespace, &scope.tenant_id);
    format!("/v1/objects?namespace={namespace}&tenant_id={tenant_id}&limit={page_objects}")
}
