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

/// One pack: a file of many small blobs. A random number, which is its file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId(u64);

impl PackId {
    /// Draws the id of a new pack.
    pub fn generate() -> Self {
        Self(InstanceId::generate().0)
    }

    /// The id as a database, or the pack itself, keeps it.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The id as a database, or the pack itself, gave it back.
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }

    /// Reads what [`Display`](fmt::Display) wrote: 16 hexadecimal digits.
    ///
    /// # Errors
    /// [`InvalidValue::Place`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.len() == 16 { parse_hex(text).map(Self) } else { Err(InvalidValue::Place) }
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// Which write of a content it is. No two writes ever have the same place, so that removing an old copy can never
/// hit a newer one of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A file of its own, whose name ends with this.
    File {
        /// Who wrote it.
        instance: InstanceId,
        /// The how-manieth write of that instance it was.
        number: u64,
    },
    /// A record of a pack.
    Pack {
        /// Which pack.
        pack: PackId,
        /// Where in the pack the record begins.
        offset: u64,
    },
}

impl Place {
    /// Reads what [`Display`](fmt::Display) wrote: 16 hexadecimal digits, `-` for a file or `:` for a pack, at least
    /// one more digit.
    ///
    /// # Errors
    /// [`InvalidValue::Place`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let (name, rest) = text.split_at_checked(16).ok_or(InvalidValue::Place)?;
        let (name, number) = (parse_hex(name)?, rest.get(1..).ok_or(InvalidValue::Place)?);
        match rest.as_bytes()[0] {
            b'-' => Ok(Self::File { instance: InstanceId(name), number: parse_hex(number)? }),
            b':' => Ok(Self::Pack { pack: PackId(name), offset: parse_hex(number)? }),
            _ => Err(InvalidValue::Place),
        }
    }

    /// The pack that it lies in, if it lies in one.
    pub fn pack(&self) -> Option<PackId> {
        match self {
            Self::File { .. } => None,
            Self::Pack { pack, .. } => Some(*pack),
        }
    }

    /// The same write as a file of its own, where it is copied out of its pack. No other write gets that place: a pack's
    /// id is drawn as an instance's is.
    pub fn as_file(self) -> Self {
        match self {
            Self::File { .. } => self,
            Self::Pack { pack, offset } => Self::File { instance: InstanceId(pack.0), number: offset },
        }
    }

    /// Another write of the same instance, or another record of the same pack.
    #[cfg(test)]
    pub(crate) fn with_number(self, number: u64) -> Self {
        match self {
            Self::File { instance, .. } => Self::File { instance, number },
            Self::Pack { pack, .. } => Self::Pack { pack, offset: number },
        }
    }

    /// Who wrote the file that it is, if it is one.
    pub fn file_instance(&self) -> Option<InstanceId> {
        match self {
            Self::File { instance, .. } => Some(*instance),
            Self::Pack { .. } => None,
        }
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
        match self {
            Self::File { instance, number } => write!(formatter, "{instance}-{number:x}"),
            Self::Pack { pack, offset } => write!(formatter, "{pack}:{offset:x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_round_trip_and_nothing_else_is_one() {
        let instance = InstanceId::generate();
        assert_eq!(InstanceId::from_i64(instance.to_i64()), instance);
        let file = Place::File { instance, number: 255 };
        let packed = Place::Pack { pack: PackId::generate(), offset: 4096 };
        assert!(file.to_string().ends_with("-ff") && packed.to_string().ends_with(":1000"));
        for place in [file, packed] {
            assert_eq!(Place::parse(&place.to_string()), Ok(place));
        }
        for text in [
            "",
            "-",
            "0-1",
            "0123456789abcdef-",
            "0123456789abcdef",
            "0123456789abcdef:",
            "0123456789abcdef/1",
            "0123456789abcde\u{e9}-1",
            "0123456789abcdef-+1",
            "0123456789ABCDEF-1",
            "0123456789abcdef-10000000000000000",
        ] {
            assert_eq!(Place::parse(text), Err(InvalidValue::Place), "{text}");
        }
    }
}
