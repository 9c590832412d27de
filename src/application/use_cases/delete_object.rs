//! Forgetting an object, or every version of a key.

use crate::application::errors::RepositoryError;
use crate::application::ports::{DeleteOutcome, ObjectName, ObjectRepository};
use crate::domain::value_objects::Precondition;

/// Forgets what `name` means, if `precondition` holds. The bytes go when nothing refers to them any more.
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
        ObjectName::Key(key_path) => repository.delete_key(key_path, precondition).await,
    }
}
