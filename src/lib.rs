//! JustStorage: a content-addressable object store. `ARCHITECTURE.md` is the map; the modules in reading order are
//! [`domain`] (the words), [`application`] (what is done with them), [`infrastructure`] (files, rings, SQL),
//! [`api`] (HTTP), [`config`] and [`server`] (how it is put together). [`maintenance`] are the tools beside a server, and
//! [`client`] is what asks one.

pub mod api;
pub mod application;
pub mod auditing;
pub mod client;
pub mod config;
pub mod domain;
mod fault_injection;
pub mod infrastructure;
pub mod invariant;
pub mod logging;
pub mod maintenance;
pub mod server;
mod service_manager;
