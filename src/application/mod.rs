//! What the store does, told through ports. Knows the domain and nothing below or above it.

pub mod credentials;
pub mod dto;
pub mod errors;
pub mod key_listing;
pub mod lifecycle;
pub mod ports;
pub mod staging;
pub mod use_cases;

#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
pub(crate) mod fakes;
#[cfg(test)]
pub(crate) mod key_listing_contract;
