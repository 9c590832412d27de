//! Forgetting an object, or every version of a key.

use crate::application::errors::RepositoryError;
use crate::application::ports::{DeleteOutcome, Freshness, ObjectName, ObjectRepository};
use crate::domain::value_objects::Precondition;

/// Forgets what `name` means, if `precondition` holds. The bytes go when nothing refers to them any more.
///
/// Whether an object is within reach is found out first: its tenant and its namespace never change.
///
/// # Errors
/// [`RepositoryError`].
pub async fn delete_object(
    repository: &impl ObjectRepository,
    name: &ObjectName,
    precondition: Precondition,
) -> Result<DeleteOutcome, RepositoryError> {
    match name {
        ObjectName::Id(id) => repository.delete(*id, precondition).await,
        ObjectName::IdWithin(id, _) => match repository.find(name, Freshness::Cached).await? {
            Some(_) => repository.delete(*id, precondition).await,
            None => Ok(DeleteOutcome::NotFound),
        },
        ObjectName::Key(key_path) => repository.delete_key(key_path, precondition).await,
        // It goes when nothing refers to it any more, and not because somebody says so.
        ObjectName::Content(..) => Ok(DeleteOutcome::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::contract::a_commit;
    use crate::application::fakes::{FakeRepository, block_on};
    use crate::domain::entities::Reach;

    #[test]
    fn what_is_out_of_reach_is_not_found_and_stays() {
        let repository = FakeRepository::default();
        let commit = a_commit(None, 1, 1);
        let id = commit.stored.object.id;
        block_on(repository.commit(commit, Default::default())).unwrap();
        let delete = |tenant_id: &str| {
            let name = ObjectName::of_id(id, &Reach::parse(tenant_id, None::<[&str; 0]>).unwrap());
            block_on(delete_object(&repository, &name, Precondition::default())).unwrap()
        };
        assert_eq!(delete("other"), DeleteOutcome::NotFound);
        assert_eq!(repository.object_count(), 1);
        assert!(matches!(delete("acme"), DeleteOutcome::Deleted { .. }));
        assert_eq!(delete("acme"), DeleteOutcome::NotFound);
    }
}
