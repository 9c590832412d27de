//! Why a value from outside is not one of ours.

use thiserror::Error;

/// A value that breaks the rule of its type. The message names the rule, never the value, so that it can be
/// shown to whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidValue {
    /// Not 64 lower-case or upper-case hexadecimal digits.
    #[error("a content hash is 64 hexadecimal digits")]
    ContentHash,
    /// Not `[a-z0-9][a-z0-9._-]{0,62}`.
    #[error("a namespace is 1 to 63 of a-z, 0-9, '.', '_', '-', and starts with a letter or digit")]
    Namespace,
    /// Not `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    #[error("a tenant id is 1 to 128 of A-Z, a-z, 0-9, '.', '_', '-', and starts with a letter or digit")]
    TenantId,
    /// Not a hyphenated UUID.
    #[error("an object id is a UUID of 36 characters")]
    ObjectId,
    /// Not a class, a tenant's digits and a random number.
    #[error("an upload id is a storage class, 16 and 32 lower-case hexadecimal digits")]
    UploadId,
    /// Empty, too long, not UTF-8, or with a segment that no key may have.
    #[error("a key is 1 to 1024 bytes of UTF-8 without control characters, empty segments, '.' or '..'")]
    Key,
    /// Too long, or with a control character, which no key has.
    #[error("a prefix is at most 1024 bytes of UTF-8 without control characters")]
    KeyPrefix,
    /// Empty, too long, or with a control character, which no key has.
    #[error("a delimiter is 1 to 64 bytes of UTF-8 without control characters")]
    Delimiter,
    /// A metadata name that is not a lower-case token.
    #[error("a metadata name is a lower-case token")]
    MetadataName,
    /// A metadata value with something else than visible ASCII and spaces.
    #[error("a metadata value is visible ASCII and spaces")]
    MetadataValue,
    /// The same metadata name twice.
    #[error("a metadata name stands once")]
    MetadataRepeated,
    /// Names and values together are over [`Metadata::BYTES_MAX`](super::value_objects::Metadata::BYTES_MAX).
    #[error("metadata is 16 KiB in all at most")]
    MetadataTooLarge,
    /// Neither `hot` nor `cold`.
    #[error("a storage class is hot or cold")]
    StorageClass,
    /// None of the four states.
    #[error("a status is WRITING, COMMITTED, DELETING or DELETED")]
    ObjectStatus,
    /// Not `type/subtype` with optional parameters.
    #[error("a content type is type/subtype with optional parameters, 255 bytes at most")]
    ContentType,
    /// A place that this program did not write.
    #[error("a place is an instance and a number")]
    Place,
    /// None of the four permissions.
    #[error("a permission is read, write, delete or admin")]
    Permission,
    /// Not 16 lower-case hexadecimal digits.
    #[error("the id of an API key is 16 lower-case hexadecimal digits")]
    ApiKeyId,
    /// Words about an API key that are too long or hold control characters.
    #[error("a label is 200 characters at most, without control characters")]
    Label,
}
