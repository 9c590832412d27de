//! Credentials: tokens that somebody else signs, and keys that the store itself gives out. Whoever shows one that is
//! good is a [`Principal`](crate::domain::entities::Principal).
//!
//! Nothing here waits but for the metadata, and that only for a key that has not been seen for some seconds.

mod api_key_secret;
mod authenticator;
mod token_verifier;
mod verification_keys;
mod verified_credentials;

pub use api_key_secret::{ApiKeySecret, NewApiKey};
pub use authenticator::{AuthenticationError, Authenticator, CurrentVerifier};
pub use token_verifier::{TOKEN_LEEWAY, TokenVerifier};
pub use verification_keys::{KeyError, TokenAlgorithm, VerificationKeys};
pub use verified_credentials::{CREDENTIALS_REMEMBERED_MAX, REMEMBERED_FOR};

/// The longest credential that is looked at. A longer one is refused before anything in it is decoded.
pub const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;
