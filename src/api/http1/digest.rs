//! `Repr-Digest` and `Content-Digest` (RFC 9530): a dictionary (RFC 9651 §3.2) of algorithm and digest.

use thiserror::Error;

use crate::domain::value_objects::ContentHash;

/// A digest field that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a digest field is not sha-256=:base64:")]
pub struct DigestError;

/// The SHA-256 in the values of a digest field. Digests of other algorithms are passed over, as RFC 9530 §3 lets a
/// recipient do; that SHA-256 is not among them is `None`.
///
/// # Errors
/// [`DigestError`] if anything in them is malformed, or two different SHA-256 are given.
pub fn parse_digests<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<ContentHash>, DigestError> {
    let mut found = None;
    for value in values {
        let text = std::str::from_utf8(value).map_err(|_| DigestError)?;
        for member in text.split(',') {
            let (algorithm, digest) = member.trim_matches([' ', '\t']).split_once('=').ok_or(DigestError)?;
            let base64 =
                digest.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).ok_or(DigestError)?;
            if !is_key(algorithm) || !is_base64(base64) {
                return Err(DigestError);
            }
            if algorithm == "sha-256" {
                let hash = ContentHash::from_base64(base64).map_err(|_| DigestError)?;
                if found.replace(hash).is_some_and(|other| other != hash) {
                    return Err(DigestError);
                }
            }
        }
    }
    Ok(found)
}

/// RFC 9651 §3.1.2.
fn is_key(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase() || first == '*')
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'))
}

fn is_base64(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn parse(values: &[&str]) -> Result<Option<ContentHash>, DigestError> {
        parse_digests(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn the_sha_256_is_found_among_others() {
        let hash = ContentHash::from_bytes([0; 32]);
        assert_eq!(parse(&[&format!("sha-256=:{ZEROS}:")]), Ok(Some(hash)));
        assert_eq!(parse(&[&format!("sha-512=:YWJj:, sha-256=:{ZEROS}:")]), Ok(Some(hash)));
        assert_eq!(parse(&["md5=:YWJj:", &format!("sha-256=:{ZEROS}:")]), Ok(Some(hash)));
        assert_eq!(parse(&[&format!("sha-256=:{ZEROS}:"), &format!("sha-256=:{ZEROS}:")]), Ok(Some(hash)));
        assert_eq!(parse(&["sha-512=:YWJj:"]), Ok(None));
        assert_eq!(parse(&[]), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let other = format!("sha-256=:{ZEROS}:,sha-256=:{}BBE=:", &ZEROS[..40]);
        for value in [
            "",
            "sha-256",
            "sha-256=",
            "sha-256=abc",
            "sha-256=:YWJj:",
            "sha-256=:!:",
            "SHA-256=:YWJj:",
            "sha-256=:YWJj:,",
            &format!("sha-256={ZEROS}"),
            &other,
        ] {
            assert_eq!(parse(&[value]), Err(DigestError), "{value}");
        }
        assert_eq!(parse_digests([&b"\xff"[..]].into_iter()), Err(DigestError));
    }
}
