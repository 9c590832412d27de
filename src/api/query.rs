//! Percent-decoding, and the parameters of a query.

use std::borrow::Cow;

use super::errors::Problem;

/// Decodes `%xx` once (RFC 3986 §2.1). `None` if an escape is not one, or the result is not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |digit: Option<u8>| digit.and_then(|digit| (digit as char).to_digit(16));
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push((high << 4 | low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The parameters of a query, each known and there once.
#[derive(Debug)]
pub(super) struct Parameters<'q> {
    values: Vec<(&'static str, Cow<'q, str>)>,
}

impl<'q> Parameters<'q> {
    /// Reads `name=value&…`, in which `+` is a space.
    ///
    /// # Errors
    /// `400` with its name for a parameter that is not `known`, stands twice, or cannot be decoded.
    pub(super) fn parse(query: Option<&'q str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut values: Vec<(&'static str, Cow<'q, str>)> = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode_form(name).unwrap_or(Cow::Borrowed(name));
            let Some(name) = known.iter().find(|known| **known == decoded) else {
                return Err(Problem::parameter(
                    "unknown_parameter",
                    &decoded,
                    "there is no such query parameter",
                ));
            };
            if values.iter().any(|(other, _)| other == name) {
                return Err(Problem::parameter("repeated_parameter", name, "it stands more than once"));
            }
            let value = decode_form(value);
            let value =
                value.ok_or_else(|| Problem::parameter("invalid_parameter", name, "it cannot be decoded"))?;
            values.push((name, value));
        }
        Ok(Self { values })
    }

    /// The value of a parameter, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(other, _)| *other == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter as `T`, if it is there.
    ///
    /// # Errors
    /// `400` with its name.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let value = self.get(name).map(parse).transpose();
        value.map_err(|error| Problem::parameter("invalid_parameter", name, error))
    }

    /// The value of a parameter that has to be there.
    ///
    /// # Errors
    /// `400` with its name.
    pub(super) fn required<T, E: std::fmt::Display>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Problem> {
        let value = self.parsed(name, parse)?;
        value.ok_or_else(|| Problem::parameter("missing_parameter", name, "this query parameter is needed"))
    }
}

fn decode_form(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return percent_decode(text);
    }
    percent_decode(&text.replace('+', " ")).map(|decoded| Cow::Owned(decoded.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once_or_refused() {
        assert_eq!(percent_decode("a+b").as_deref(), Some("a+b"));
        assert_eq!(percent_decode("%61%2F%C3%A4%25 41").as_deref(), Some("a/ä% 41"));
        assert_eq!(percent_decode("%2541").as_deref(), Some("%41"));
        for text in ["%", "%4", "%4g", "%+1", "%ff", "%c0%af", "%ed%a0%80"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }

    #[test]
    fn parameters_are_known_and_there_once() {
        let known = ["namespace", "limit"];
        let parameters = Parameters::parse(Some("namespace=a+b%2b&&limit="), &known).unwrap();
        assert_eq!((parameters.get("namespace"), parameters.get("limit")), (Some("a b+"), Some("")));
        assert!(Parameters::parse(None, &known).unwrap().get("limit").is_none());
        for (query, code, name) in [
            ("x=1", "unknown_parameter", "x"),
            ("limit=1&limit=1", "repeated_parameter", "limit"),
            ("limit=%zz", "invalid_parameter", "limit"),
            ("versions", "unknown_parameter", "versions"),
        ] {
            let problem = Parameters::parse(Some(query), &known).unwrap_err();
            assert_eq!((problem.status, problem.code, problem.parameter.as_deref()), (400, code, Some(name)));
        }
    }
}
