//! The words of the store and their rules. Knows nothing of HTTP, SQL, files or runtimes.

pub mod entities;
pub mod errors;
pub mod value_objects;
