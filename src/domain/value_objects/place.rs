//! Where one written copy of a blob lies, as a name that no other write ever gets.

use std::fmt;

use uuid::Uuid;

use crate::domain::errors::InvalidValue;

/// One run of the server process: a random number that is drawn at start. A file or row that carries the id of
/// an instance that has ended can be swept; age alone says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(u64);

impl InstanceId {
    /// Draws the id of this run.
    pub fn generate() -> Self {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        // The two halves hold six fixed bits between them; mixed, no bit of the result is fixed.
        Self(high.rotate_left(32) ^ low)
    }

    /// The id as a database keeps it.
    pub const fn to_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// The id as a database gave it back.
    pub const fn from_i64(value: i64) -> Self {
        Self(value.cast_unsigned())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// The generation of one write: the instance that wrote it and that instance's running number. It is the end of
/// the blob file's name, so that removing an old copy can never hit a newer one of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Who wrote it.
    pub instance: InstanceId,
    /// The how-manieth write of that instance it was.
    pub number: u64,
}

impl Place {
    /// Reads what [`Display`](fmt::Display) wrote: 16 hexadecimal digits, `-`, at least one more.
    ///
    /// # Errors
    /// [`InvalidValue::Place`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let (instance, number) = text.split_once('-').ok_or(InvalidValue::Place)?;
        if instance.len() != 16 {
            return Err(InvalidValue::Place);
        }
        Ok(Self { instance: InstanceId(parse_hex(instance)?), number: parse_hex(number)? })
    }
}

fn parse_hex(digits: &str) -> Result<u64, InvalidValue> {
    if !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(InvalidValue::Place);
    }
    u64::from_str_radix(digits, 16).map_err(|_| InvalidValue::Place)
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{:x}", self.instance, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_round_trip_and_nothing_else_is_one() {
        let place = Place { instance: InstanceId::generate(), number: 255 };
        assert!(place.to_string().ends_with("-ff"));
        assert_eq!(Place::parse(&place.to_string()), Ok(place));
        assert_eq!(InstanceId::from_i64(place.instance.to_i64()), place.instance);
        for text in [
            "",
            "-",
            "0-1",
            "0123456789abcdef-",
            "0123456789abcdef-+1",
            "0123456789ABCDEF-1",
            "0123456789abcdef-10000000000000000",
        ] {
            assert_eq!(Place::parse(text), Err(InvalidValue::Place), "{text}");
        }
    }
}
