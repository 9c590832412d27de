//! The name that the store gives an upload that can be resumed.

use std::fmt;

use uuid::Uuid;

use super::StorageClass;
use crate::domain::errors::InvalidValue;

/// Where the bytes of an upload wait, in a directory of its tenant: `hot-` or `cold-`, 16 hexadecimal digits that stand
/// for the tenant, `-`, and a random number of 32. A path is made of nothing else, and nobody guesses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId {
    storage_class: StorageClass,
    tenant_mark: TenantMark,
    random: Uuid,
}

/// What stands for a tenant in the names of its uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TenantMark(u64);

impl TenantMark {
    /// From a digest of the tenant's id.
    pub const fn from_u64(digest: u64) -> Self {
        Self(digest)
    }
}

impl fmt::Display for TenantMark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl UploadId {
    /// A new id.
    pub fn generate(storage_class: StorageClass, tenant_mark: TenantMark) -> Self {
        Self { storage_class, tenant_mark, random: Uuid::new_v4() }
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    ///
    /// # Errors
    /// [`InvalidValue::UploadId`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let invalid = || InvalidValue::UploadId;
        let (class, rest) = text.split_once('-').ok_or_else(invalid)?;
        let (tenant, random) = rest.split_once('-').ok_or_else(invalid)?;
        let is_hex = |digits: &str| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if tenant.len() != 16 || random.len() != 32 || !is_hex(tenant) || !is_hex(random) {
            return Err(InvalidValue::UploadId);
        }
        Ok(Self {
            storage_class: StorageClass::parse(class).map_err(|_| InvalidValue::UploadId)?,
            tenant_mark: u64::from_str_radix(tenant, 16)
                .map(TenantMark)
                .map_err(|_| InvalidValue::UploadId)?,
            random: Uuid::try_parse(random).map_err(|_| InvalidValue::UploadId)?,
        })
    }

    /// The root that its bytes wait in.
    pub fn storage_class(&self) -> StorageClass {
        self.storage_class
    }

    /// Whose it is.
    pub fn tenant_mark(&self) -> TenantMark {
        self.tenant_mark
    }

    /// Its random number.
    pub fn random(&self) -> &Uuid {
        &self.random
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.storage_class.as_str(), self.tenant_mark, self.random.simple())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_nothing_else_is_one() {
        for class in [StorageClass::Hot, StorageClass::Cold] {
            let id = UploadId::generate(class, TenantMark::from_u64(7));
            assert_eq!(UploadId::parse(&id.to_string()), Ok(id));
            assert_eq!(id.to_string().len(), class.as_str().len() + 50);
        }
        let good = UploadId::generate(StorageClass::Hot, TenantMark::from_u64(7)).to_string();
        for text in [
            "",
            "-",
            "--",
            "hot--",
            &good[..good.len() - 1],
            &format!("{good}0"),
            &good.to_uppercase(),
            &good.replace("hot", "warm"),
            &good.replace("-00", "-.."),
            &good.replace("-00", "-/."),
            &good.replace('-', ""),
        ] {
            assert_eq!(UploadId::parse(text), Err(InvalidValue::UploadId), "{text}");
        }
    }
}
