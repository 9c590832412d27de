//! SHA-256 of received bodies, in the text form of the `Repr-Digest` field (RFC 9530): `sha-256=:<base64>:`.

use sha2::{Digest as _, Sha256};

/// Length of the padded base64 of 32 bytes.
pub(crate) const DIGEST_TEXT_BYTES: usize = 44;

/// A SHA-256 as padded base64. It is compared as text, so that no decoder is needed.
pub(crate) type DigestText = [u8; DIGEST_TEXT_BYTES];

const BASE64_DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Takes the bytes of a body in turn and gives their digest.
#[derive(Debug, Default)]
pub(crate) struct BodyDigest(Sha256);

impl BodyDigest {
    /// Adds the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    pub(crate) fn finish(self) -> DigestText {
        encode_base64(&self.0.finalize().into())
    }
}

/// Finds the SHA-256 in the value of a `Repr-Digest` field.
///
/// Gives `None` where there is no SHA-256, and the reason where there is one that cannot be read.
pub(crate) fn find_sha256(field_value: &[u8]) -> Result<Option<DigestText>, &'static str> {
    let members = field_value.split(|byte| *byte == b',').map(|member| member.trim_ascii());
    let Some(digest) = members.into_iter().find_map(|member| member.strip_prefix(b"sha-256=")) else {
        return Ok(None);
    };
    let text = digest.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b":"));
    match text.and_then(|text| text.try_into().ok()) {
        Some(text) => Ok(Some(text)),
        None => Err("the SHA-256 in Repr-Digest is not 44 characters between colons"),
    }
}

fn encode_base64(bytes: &[u8; 32]) -> DigestText {
    let mut text = [b'='; DIGEST_TEXT_BYTES];
    for (group, digits) in bytes.chunks(3).zip(text.chunks_exact_mut(4)) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        // A group of n bytes has n + 1 digits; the padding is there already.
        for (index, digit) in digits.iter_mut().take(group.len() + 1).enumerate() {
            *digit = BASE64_DIGITS[(bits >> (18 - 6 * index) & 63) as usize];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        // The empty string and "abc" of FIPS 180-4, in base64.
        assert_eq!(&BodyDigest::default().finish(), b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        let mut digest = BodyDigest::default();
        digest.update(b"a");
        digest.update(b"bc");
        assert_eq!(&digest.finish(), b"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn sha256_is_found_among_others() {
        let text = b"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        for value in [
            "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:",
            "sha-512=:AAAA:, sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=: ",
        ] {
            assert_eq!(find_sha256(value.as_bytes()), Ok(Some(*text)), "{value}");
        }
        assert_eq!(find_sha256(b"sha-512=:AAAA:"), Ok(None));
        assert_eq!(find_sha256(b""), Ok(None));
        for value in [
            "sha-256=",
            "sha-256=::",
            "sha-256=:AAAA:",
            "sha-256=ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
        ] {
            assert!(find_sha256(value.as_bytes()).is_err(), "{value}");
        }
    }
}
