//! The server as its clients see it: every test starts the real binary on loopback, in a directory of its own, and
//! talks to it over sockets. One binary, so that it links once; one `mod` line a file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail by panicking, too; clippy.toml covers only the functions marked #[test]"
)]

// What the tests stand on.
mod content;
mod description;
#[allow(unreachable_pub, reason = "it is a library of its own, too")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz_targets;
mod raw;
mod scripted;
mod server;
mod site;
#[path = "../throwaway_postgres/mod.rs"]
mod throwaway_postgres;
mod tokens;
mod valve;

// What they hold the server to.
mod api_keys;
mod audit;
mod bad_input;
mod batch_conditions;
mod batch_references;
mod batches;
mod blobs;
mod client;
mod conditions;
mod connection;
mod crash;
mod damage;
mod database_away;
mod database_connections;
mod deployment;
mod differential;
mod disposition;
mod doctor;
mod documents;
mod expectations;
mod fuzz_corpora;
mod greedy;
mod health_command;
mod hostile_tokens;
mod key_rotation;
mod keys;
mod layers;
mod lifecycle;
mod lifecycle_rules;
mod limits;
mod links;
mod listing;
mod listing_by_key;
mod logging;
mod maintenance;
mod maintenance_on_postgres;
mod metrics;
mod objects;
mod packs;
mod patch;
mod permissions;
mod policies;
mod quotas;
mod ranges;
mod records;
mod request_rates;
mod resumable;
mod roots;
mod scrub;
mod service_manager;
mod settings;
mod several_servers;
mod signed_urls;
mod smuggling;
mod tenants;
mod timeouts;
mod tls;
mod unfound;
mod wall_clock;
