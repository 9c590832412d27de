//! A repository in memory, of which tests can also ask what it has been asked.

mod lifecycle;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::block_on;
use crate::application::errors::{QuotaExceeded, RepositoryError, UploadError};
use crate::application::key_listing::{KeyPage, KeyPosition, KeyQuery, VersionQuery, WalkedKey};
use crate::application::ports::{
    ApiKeyRepository, Begun, CommitOutcome, DeleteOutcome, Freshness, KeyStanding, ListPage, ListQuery,
    LooseCommit, LooseOutcome, ObjectCommit, ObjectName, ObjectRepository, ObjectUpdate, Room, SeenObject,
    UpdateOutcome,
};
use crate::domain::entities::{
    ApiKey, ApiKeyId, BlobLocation, Day, KeyPath, Object, Quota, QuotaLimits, Reach, StandingRule,
    StoredContent, StoredObject, Usage,
};
use crate::domain::value_objects::{
    ContentHash, ContentType, Metadata, Namespace, ObjectId, ObjectStatus, Place, Precondition, StorageClass,
    TenantId,
};

#[derive(Default)]
struct FakeRepositoryState {
    /// By sequence, so that the order of commits is the order of the map.
    objects: BTreeMap<u64, (Object, Option<Place>)>,
    blobs: HashMap<(ContentHash, StorageClass), (Place, u64)>,
    sequence: u64,
    reservations: usize,
    finds: usize,
    commit_error: Option<RepositoryError>,
    /// What others do before an update that has been asked for happens.
    before_update: Vec<Box<dyn FnOnce()>>,
    limits: HashMap<TenantId, QuotaLimits>,
    /// What rooms hold.
    reserved: HashMap<TenantId, Usage>,
    /// Which tenants have a lease, and the objects that these were taken by. They do not end.
    leases: HashMap<(ContentHash, StorageClass, TenantId), Object>,
    api_keys: HashMap<ApiKeyId, ApiKey>,
    key_error: Option<RepositoryError>,
    last_key_standing: Option<KeyStanding>,
    delete_error: Option<RepositoryError>,
    rules: BTreeMap<Namespace, StandingRule>,
    reads: HashMap<ObjectId, Day>,
    clock_distrusted: bool,
    never_due: bool,
}

#[derive(Default)]
pub(crate) struct FakeRepository(std::rc::Rc<RefCell<FakeRepositoryState>>);

/// Whose, and how much.
#[derive(Default)]
pub(crate) struct FakeRoom(Option<(std::rc::Rc<RefCell<FakeRepositoryState>>, TenantId, Usage)>);

impl Room for FakeRoom {
    fn resize(&mut self, bytes: u64) -> Result<(), QuotaExceeded> {
        let Some((state, tenant_id, usage)) = &mut self.0 else { return Ok(()) };
        let (mut state, now) = (state.borrow_mut(), Usage::of_object(bytes));
        state.hold(tenant_id, *usage, now)?;
        *usage = now;
        Ok(())
    }
}

impl Drop for FakeRoom {
    fn drop(&mut self) {
        if let Some((state, tenant_id, usage)) = self.0.take() {
            let mut state = state.borrow_mut();
            let reserved = state.reserved.entry(tenant_id).or_default();
            *reserved = reserved.minus(usage);
        }
    }
}

impl FakeRepository {
    pub(crate) fn object_count(&self) -> usize {
        self.0.borrow().objects.values().filter(|(object, _)| object.status != ObjectStatus::Deleted).count()
    }

    pub(crate) fn writing_count(&self) -> usize {
        self.0.borrow().objects.values().filter(|(object, _)| object.status == ObjectStatus::Writing).count()
    }

    pub(crate) fn reservation_count(&self) -> usize {
        self.0.borrow().reservations
    }

    /// From now on all uploads are over before they are worth a note.
    pub(crate) fn never_due(&self) {
        self.0.borrow_mut().never_due = true;
    }

    pub(crate) fn find_count(&self) -> usize {
        self.0.borrow().finds
    }

    /// Gives out a key, or changes it.
    pub(crate) fn put_api_key(&self, key: ApiKey) {
        self.0.borrow_mut().api_keys.insert(key.id, key);
    }

    pub(crate) fn fail_next_key(&self, error: RepositoryError) {
        self.0.borrow_mut().key_error = Some(error);
    }

    /// What the last key that was looked up was said to be.
    pub(crate) fn last_key_standing(&self) -> KeyStanding {
        self.0.borrow().last_key_standing.unwrap()
    }

    pub(crate) fn fail_next_delete(&self, error: RepositoryError) {
        self.0.borrow_mut().delete_error = Some(error);
    }

    /// From now on its clock has leapt.
    pub(crate) fn distrust_clock(&self) {
        self.0.borrow_mut().clock_distrusted = true;
    }

    /// Lets others do something before the next update happens, once for each time that this is called.
    pub(crate) fn before_update(&self, between: impl FnOnce() + 'static) {
        self.0.borrow_mut().before_update.push(Box::new(between));
    }

    /// The same repository, for others.
    pub(crate) fn shared(&self) -> Self {
        Self(self.0.clone())
    }

    pub(crate) fn fail_next_commit(&self, error: RepositoryError) {
        self.0.borrow_mut().commit_error = Some(error);
    }
}

impl FakeRepositoryState {
    fn usage(&self, tenant_id: &TenantId) -> Usage {
        let is_own = |object: &&Object| {
            object.status == ObjectStatus::Committed && object.scope.tenant_id == *tenant_id
        };
        let own = self.objects.values().map(|(object, _)| object).filter(is_own);
        own.fold(Usage::default(), |usage, object| usage.plus(Usage::of_object(object.size_bytes.unwrap())))
    }

    fn quota(&self, tenant_id: &TenantId) -> Quota {
        let limits = self.limits.get(tenant_id).copied().unwrap_or_default();
        Quota { usage: self.usage(tenant_id), limits }
    }

    fn hold(&mut self, tenant_id: &TenantId, before: Usage, now: Usage) -> Result<(), QuotaExceeded> {
        let Quota { usage, limits } = self.quota(tenant_id);
        let reserved = self.reserved.entry(tenant_id.clone()).or_default();
        let wanted = reserved.minus(before).plus(now);
        if now.bytes >= before.bytes && !limits.admit(usage.plus(wanted)) {
            return Err(QuotaExceeded);
        }
        *reserved = wanted;
        Ok(())
    }

    fn newest(&self, name: &ObjectName) -> Option<(u64, StoredObject)> {
        let is_meant = |object: &Object| match name {
            ObjectName::Id(id) => object.id == *id,
            ObjectName::IdWithin(id, reach) => object.id == *id && reach.includes(&object.scope),
            ObjectName::Key(path) => object.key_path().as_ref() == Some(path),
            ObjectName::Content(hash, reach) => {
                object.content_hash == Some(*hash) && reach.includes(&object.scope)
            }
        };
        let mut meant = self
            .objects
            .iter()
            .rev()
            .filter(|(_, (object, _))| object.status == ObjectStatus::Committed && is_meant(object));
        match name {
            ObjectName::Content(hash, reach) => {
                let leased = self.leases.iter().find_map(|((leased, _, tenant_id), object)| {
                    (leased == hash && reach.tenant_id() == Some(tenant_id)).then_some((0, object))
                });
                let named = meant.next().map(|(sequence, (object, _))| (*sequence, object));
                let (sequence, object) = named.or(leased)?;
                let plain = Object {
                    key: None,
                    content_type: ContentType::octet_stream(),
                    metadata: Metadata::default(),
                    ..object.clone()
                };
                Some((sequence, self.stored(&plain)))
            }
            _ => meant.next().map(|(sequence, (object, _))| (*sequence, self.stored(object))),
        }
    }

    fn stored(&self, object: &Object) -> StoredObject {
        let content_hash = object.content_hash.unwrap();
        let place = self.blobs[&(content_hash, object.storage_class)].0;
        let size_bytes = object.size_bytes.unwrap();
        StoredObject { object: object.clone(), content_hash, size_bytes, place, damaged: false }
    }

    fn forget(&mut self, sequence: u64) -> ObjectId {
        let (object, _) = self.objects.get_mut(&sequence).unwrap();
        object.status = ObjectStatus::Deleted;
        let blob = (object.content_hash.unwrap(), object.storage_class);
        self.blobs.get_mut(&blob).unwrap().1 -= 1;
        object.id
    }
}

impl ObjectRepository for FakeRepository {
    type Buffer = Vec<u8>;
    type Room = FakeRoom;

    fn reserve_room(&self, tenant_id: &TenantId, bytes: u64) -> Result<FakeRoom, QuotaExceeded> {
        let (mut state, usage) = (self.0.borrow_mut(), Usage::of_object(bytes));
        if !state.limits.contains_key(tenant_id) {
            return Ok(FakeRoom(None));
        }
        state.hold(tenant_id, Usage::default(), usage)?;
        Ok(FakeRoom(Some((self.0.clone(), tenant_id.clone(), usage))))
    }

    async fn commit_loose(&self, _: LooseCommit<Vec<u8>>, _: FakeRoom) -> Result<LooseOutcome, UploadError> {
        crate::invariant::broken("the fake store leaves no bytes loose")
    }

    async fn begin_loose<'r>(
        &'r self,
        _: LooseCommit<&[u8]>,
        _: FakeRoom,
    ) -> Result<Begun<'r, impl Future<Output = Result<LooseOutcome, UploadError>> + use<'r>>, UploadError>
    {
        match () {
            () if false => Ok(Begun::ByItself(std::future::pending())),
            () => crate::invariant::broken("the fake store leaves no bytes loose"),
        }
    }

    async fn reservation_due(&self) {
        if self.0.borrow().never_due {
            std::future::pending::<()>().await;
        }
    }

    async fn reserve(&self, object: &Object) -> Result<(), RepositoryError> {
        let mut state = self.0.borrow_mut();
        state.sequence += 1;
        state.reservations += 1;
        let sequence = state.sequence;
        state.objects.insert(sequence, (object.clone(), None));
        Ok(())
    }

    async fn abandon(&self, id: ObjectId) -> Result<(), RepositoryError> {
        let writing = |object: &Object| object.id == id && object.status == ObjectStatus::Writing;
        self.0.borrow_mut().objects.retain(|_, (object, _)| !writing(object));
        Ok(())
    }

    async fn commit(&self, commit: ObjectCommit, room: FakeRoom) -> Result<CommitOutcome, RepositoryError> {
        // Nothing comes between this and the counting.
        drop(room);
        let mut state = self.0.borrow_mut();
        if let Some(error) = state.commit_error.take() {
            return Err(error);
        }
        let stored = commit.stored;
        let is_known =
            |object: &Object| object.id == stored.object.id && object.status != ObjectStatus::Writing;
        if state.objects.values().any(|(object, _)| is_known(object)) {
            let blob = state.blobs.get(&(stored.content_hash, stored.object.storage_class));
            let place = blob.map_or(stored.place, |(place, _)| *place);
            return Ok(CommitOutcome::Committed { replaced: false, place });
        }
        let current = stored.object.key_path().and_then(|path| state.newest(&ObjectName::Key(path)));
        if !commit.precondition.holds(current.as_ref().map(|(_, current)| current.current_version()).as_ref())
        {
            return Ok(CommitOutcome::PreconditionFailed);
        }
        let Quota { usage, limits } = state.quota(&stored.object.scope.tenant_id);
        if !limits.admit(usage.plus(Usage::of_object(stored.size_bytes))) {
            return Ok(CommitOutcome::QuotaExceeded);
        }
        let id = stored.object.id;
        let blob = (stored.content_hash, stored.object.storage_class);
        if commit.is_reference && !state.blobs.contains_key(&blob) {
            return Ok(CommitOutcome::ContentMissing);
        }
        state.objects.retain(|_, (object, _)| object.id != id);
        let (place, count) = state.blobs.entry(blob).or_insert((stored.place, 0));
        *count += 1;
        let place = *place;
        state.sequence += 1;
        let sequence = state.sequence;
        state.objects.insert(sequence, (stored.object, Some(place)));
        Ok(CommitOutcome::Committed { replaced: current.is_some(), place })
    }

    async fn delete(
        &self,
        id: ObjectId,
        precondition: Precondition,
    ) -> Result<DeleteOutcome, RepositoryError> {
        let mut state = self.0.borrow_mut();
        state.delete_error.take().map_or(Ok(()), Err)?;
        let Some((sequence, stored)) = state.newest(&ObjectName::Id(id)) else {
            return Ok(DeleteOutcome::NotFound);
        };
        if !precondition.holds(Some(&stored.current_version())) {
            return Ok(DeleteOutcome::PreconditionFailed);
        }
        let ids = vec![state.forget(sequence)];
        Ok(DeleteOutcome::Deleted { ids, key_path: stored.object.key_path() })
    }

    async fn delete_key(
        &self,
        path: &KeyPath,
        precondition: Precondition,
    ) -> Result<DeleteOutcome, RepositoryError> {
        let mut state = self.0.borrow_mut();
        let name = ObjectName::Key(path.clone());
        let Some((_, newest)) = state.newest(&name) else { return Ok(DeleteOutcome::NotFound) };
        if !precondition.holds(Some(&newest.current_version())) {
            return Ok(DeleteOutcome::PreconditionFailed);
        }
        let mut ids = Vec::new();
        while let Some((sequence, _)) = state.newest(&name) {
            ids.push(state.forget(sequence));
        }
        Ok(DeleteOutcome::Deleted { ids, key_path: Some(path.clone()) })
    }

    async fn update(&self, update: ObjectUpdate) -> Result<UpdateOutcome, RepositoryError> {
        let mut state = self.0.borrow_mut();
        if let Some(error) = state.commit_error.take() {
            return Err(error);
        }
        if let Some(between) = state.before_update.pop() {
            drop(state);
            between();
            state = self.0.borrow_mut();
        }
        let Some((sequence, stored)) = state.newest(&ObjectName::Id(update.object.id)) else {
            return Ok(UpdateOutcome::NotFound);
        };
        if SeenObject::of(&stored.object) != update.seen {
            return Ok(UpdateOutcome::Changed);
        }
        let (class_before, key_before) = (stored.object.storage_class, stored.object.key_path());
        let mut place = None;
        if let Some(copy) = update.copy {
            state.blobs.get_mut(&(stored.content_hash, class_before)).unwrap().1 -= 1;
            let blob = (stored.content_hash, update.object.storage_class);
            let (kept, count) = state.blobs.entry(blob).or_insert((copy, 0));
            *count += 1;
            place = Some(*kept);
        }
        let key_path = update.object.key_path();
        let stays = key_path.is_none() || key_path == key_before;
        state.objects.remove(&sequence);
        state.sequence += 1;
        let sequence = if stays { sequence } else { state.sequence };
        state.objects.insert(sequence, (update.object, place));
        Ok(UpdateOutcome::Updated { key_before, place })
    }

    async fn update_loose(&self, _: ObjectUpdate, _: Vec<u8>) -> Result<UpdateOutcome, UploadError> {
        crate::invariant::broken("the fake store leaves no bytes loose")
    }

    async fn mend(&self, lost: &BlobLocation, place: Place) -> Result<bool, RepositoryError> {
        let mut state = self.0.borrow_mut();
        let blob = state.blobs.get_mut(&(lost.content_hash, lost.storage_class));
        let blob = blob.filter(|(named, _)| *named == lost.place);
        Ok(blob.map(|(named, _)| *named = place).is_some())
    }

    async fn find(
        &self,
        name: &ObjectName,
        _: Freshness,
    ) -> Result<Option<Arc<StoredObject>>, RepositoryError> {
        let mut state = self.0.borrow_mut();
        state.finds += 1;
        Ok(state.newest(name).map(|(_, stored)| Arc::new(stored)))
    }

    async fn lease(
        &self,
        hashes: Vec<ContentHash>,
        reach: &Reach,
    ) -> Result<Vec<StoredContent>, RepositoryError> {
        let mut state = self.0.borrow_mut();
        let tenant_id = reach.tenant_id().unwrap();
        let is_had = |object: &&Object| {
            object.status == ObjectStatus::Committed
                && reach.includes(&object.scope)
                && hashes.contains(&object.content_hash.unwrap())
        };
        let had: Vec<_> = state.objects.values().map(|(object, _)| object).filter(is_had).cloned().collect();
        for object in had {
            let key = (object.content_hash.unwrap(), object.storage_class, tenant_id.clone());
            state.leases.insert(key, object);
        }
        let leased = state
            .leases
            .iter()
            .filter(|((hash, _, leased_to), _)| hashes.contains(hash) && leased_to == tenant_id);
        let content = |((content_hash, storage_class, _), object): (
            &(ContentHash, StorageClass, TenantId),
            &Object,
        )| {
            let (content_hash, storage_class) = (*content_hash, *storage_class);
            let place = state.blobs[&(content_hash, storage_class)].0;
            let location = BlobLocation { storage_class, content_hash, place };
            StoredContent { location, size_bytes: object.size_bytes.unwrap(), damaged: false }
        };
        Ok(leased.map(content).collect())
    }

    async fn quota(&self, tenant_id: &TenantId) -> Result<Quota, RepositoryError> {
        Ok(self.0.borrow().quota(tenant_id))
    }

    async fn set_limits(&self, tenant_id: &TenantId, limits: QuotaLimits) -> Result<Quota, RepositoryError> {
        self.0.borrow_mut().limits.insert(tenant_id.clone(), limits);
        self.quota(tenant_id).await
    }

    async fn check(&self) -> Result<(), RepositoryError> {
        Ok(())
    }

    async fn inspect(&self, name: &ObjectName) -> Result<Option<Object>, RepositoryError> {
        let state = self.0.borrow();
        let newest = state.newest(name).map(|(_, stored)| stored.object);
        let (ObjectName::Id(id) | ObjectName::IdWithin(id, _)) = name else { return Ok(newest) };
        let writing = |object: &&Object| {
            object.id == *id && object.status == ObjectStatus::Writing && name.reaches(&object.scope)
        };
        Ok(newest.or_else(|| state.objects.values().map(|(object, _)| object).find(writing).cloned()))
    }

    async fn list(&self, query: ListQuery) -> Result<ListPage, RepositoryError> {
        let state = self.0.borrow();
        let is_meant = |object: &Object| {
            object.scope == query.scope
                && object.status == query.status
                && query.storage_class.is_none_or(|class| object.storage_class == class)
        };
        let mut found: Vec<_> = state
            .objects
            .range(..query.before.unwrap_or(u64::MAX))
            .rev()
            .filter(|(_, (object, _))| is_meant(object))
            .take(query.limit as usize + 1)
            .map(|(sequence, (object, _))| (*sequence, object.clone()))
            .collect();
        let more = found.len() > query.limit as usize;
        found.truncate(query.limit as usize);
        let next = found.last().filter(|_| more).map(|(sequence, _)| *sequence);
        Ok(ListPage { objects: found.into_iter().map(|(_, object)| object).collect(), next })
    }

    async fn list_keys(&self, query: KeyQuery) -> Result<KeyPage, RepositoryError> {
        let state = self.0.borrow();
        let committed = state
            .objects
            .values()
            .map(|(object, _)| object)
            .filter(|object| object.scope == query.scope && object.status == ObjectStatus::Committed);
        // The later ones take the place of those before.
        let newest: BTreeMap<&str, &Object> =
            committed.filter_map(|object| Some((object.key.as_ref()?.as_str(), object))).collect();
        let (mut walked, mut passed) = (Vec::new(), query.after.clone());
        for (key, object) in newest {
            let is_behind = match &passed {
                None => true,
                Some(KeyPosition::Key(last)) => key > last.as_str(),
                Some(KeyPosition::Common(last)) => key > last.as_str() && !key.starts_with(last),
            };
            if !is_behind || !key.starts_with(query.prefix.as_str()) {
                continue;
            }
            let is_shown = query.storage_class.is_none_or(|class| object.storage_class == class);
            let common = query.common(key).filter(|_| is_shown);
            let object = (is_shown && common.is_none()).then(|| object.clone());
            walked.push(WalkedKey { key: key.to_owned(), is_shown, object });
            passed = Some(match common {
                Some(common) => KeyPosition::Common(common.to_owned()),
                None => KeyPosition::Key(key.to_owned()),
            });
            if walked.len() == query.keys_looked_at_max() as usize {
                break;
            }
        }
        Ok(KeyPage::of_walk(&query, walked))
    }

    async fn list_versions(&self, query: VersionQuery) -> Result<ListPage, RepositoryError> {
        let state = self.0.borrow();
        let versions =
            state.objects.range(..query.before.unwrap_or(u64::MAX)).rev().filter(|(_, (object, _))| {
                object.status == ObjectStatus::Committed
                    && object.key_path().as_ref() == Some(&query.key_path)
            });
        let mut found: Vec<_> = versions.take(query.limit as usize + 1).collect();
        let more = found.len() > query.limit as usize;
        found.truncate(query.limit as usize);
        let next = found.last().filter(|_| more).map(|(sequence, _)| **sequence);
        Ok(ListPage { objects: found.into_iter().map(|(_, (object, _))| object.clone()).collect(), next })
    }
}

impl ApiKeyRepository for FakeRepository {
    async fn find_api_key(
        &self,
        id: ApiKeyId,
        standing: KeyStanding,
    ) -> Result<Option<ApiKey>, RepositoryError> {
        let mut state = self.0.borrow_mut();
        state.last_key_standing = Some(standing);
        state.key_error.take().map_or(Ok(()), Err)?;
        Ok(state.api_keys.get(&id).cloned())
    }
}

#[test]
fn the_fake_repository_keeps_the_contract() {
    crate::application::contract::repository_contract(FakeRepository::default);
}

#[test]
fn the_fake_repository_lists_keys_as_the_model_does() {
    crate::application::key_listing_contract::key_listing_contract(&FakeRepository::default());
}

#[test]
fn the_fake_repository_keeps_the_contract_of_keys() {
    let repository = FakeRepository::default();
    let put = async |key: &ApiKey| repository.put_api_key(key.clone());
    block_on(crate::application::contract::api_key_contract(&repository, put));
}
