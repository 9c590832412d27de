//! HTTP/1.1 message syntax (RFC 9112) without I/O: bytes in, values out, nothing waits. Strict where leniency would
//! let two parties read the same bytes differently.

mod body;
mod conditions;
mod date;
mod digest;
mod disposition;
mod head;
mod multipart;
mod range;
mod response;

pub use body::{BodyDecoder, BodyError, Decoded};
pub use conditions::{Conditions, Verdict, set_condition};
pub(crate) use date::{append_http_date, append_timestamp};
pub use digest::{DigestError, parse_digests};
pub use disposition::{FILE_NAME_BYTES_MAX, InvalidFileName, append_attachment, check_file_name};
pub use head::{BodyFraming, HeadError, HeadLimits, HeadParser, Method, RequestHead, Version};
pub use multipart::Multipart;
pub use range::{RANGES_MAX, RangeHeader, parse_range};
pub(crate) use response::append_decimal;
pub use response::{DateCache, Fields, ResponseHead, StatusLine, status_title};
