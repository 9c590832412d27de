//! The media type that an object was stored with and is given back with.

use std::sync::{Arc, LazyLock};

use crate::domain::errors::InvalidValue;

/// A media type (RFC 9110 §8.3.1), kept as it came once its syntax is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentType(Arc<str>);

/// RFC 9110 §5.6.2: what a token is made of.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl ContentType {
    /// The most bytes that a media type may have here.
    pub const BYTES_MAX: usize = 255;

    /// Checks `type/subtype *( OWS ";" OWS [ name "=" ( token / quoted-string ) ] )`.
    ///
    /// # Errors
    /// [`InvalidValue::ContentType`]; a value that could smuggle a line break never passes.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.len() > Self::BYTES_MAX || !is_media_type(text) {
            return Err(InvalidValue::ContentType);
        }
        Ok(Self(text.into()))
    }

    /// `application/octet-stream`, what an upload without a media type gets.
    pub fn octet_stream() -> Self {
        static OCTET_STREAM: LazyLock<Arc<str>> = LazyLock::new(|| "application/octet-stream".into());
        Self(OCTET_STREAM.clone())
    }

    /// The media type as it was sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_media_type(text: &str) -> bool {
    let (essence, mut parameters) = match text.split_once(';') {
        Some((essence, parameters)) => (essence.trim_end_matches([' ', '\t']), parameters),
        None => (text, ""),
    };
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    if !is_token(kind) || !is_token(subtype) {
        return false;
    }
    loop {
        parameters = parameters.trim_start_matches([' ', '\t', ';']);
        if parameters.is_empty() {
            return true;
        }
        let Some((name, value)) = parameters.split_once('=') else { return false };
        let Some(rest) = after_parameter_value(value) else { return false };
        let rest = rest.trim_start_matches([' ', '\t']);
        if !is_token(name) || !(rest.is_empty() || rest.starts_with(';')) {
            return false;
        }
        parameters = rest;
    }
}

/// What stands behind the token or quoted string at the start of `value`; `None` if neither stands there.
fn after_parameter_value(value: &str) -> Option<&str> {
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(value.len());
        return (end > 0).then(|| &value[end..]);
    };
    let mut escaped = false;
    for (index, byte) in quoted.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(&quoted[index + 1..]),
            b'\t' | b' '..=b'~' => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_of_every_form_are_kept_as_they_came() {
        for text in [
            "application/octet-stream",
            "text/plain; charset=utf-8",
            "text/plain;charset=\"utf-8\"; a=b",
            "multipart/form-data; boundary=\"a \\\" b\"",
            "text/plain;",
            "application/vnd.a+json ; v=1",
        ] {
            assert_eq!(ContentType::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("a/{}", "b".repeat(ContentType::BYTES_MAX - 1));
        for text in [
            "",
            "text",
            "/plain",
            "text/",
            "text/pl ain",
            "text/plain; charset",
            "a/b; c=",
            "a/b; c=\"d",
            "a/b\r\nX: y",
            "a/b;c=\"\u{e9}\"",
            &long,
        ] {
            assert_eq!(ContentType::parse(text), Err(InvalidValue::ContentType), "{text}");
        }
        assert!(ContentType::parse(&long[..ContentType::BYTES_MAX]).is_ok());
    }
}
