//! The database: whether it can be had, whether its schema is one that this program knows, whether the roots are its
//! own, and whether anybody can get in.

use std::time::Duration;

use tokio::time::timeout;

use super::Check;
use crate::config::{Authentication, Config, StorePaths};
use crate::domain::value_objects::StorageClass;
use crate::infrastructure::persistence::{Database, DatabaseUrl, OpenError};
use crate::infrastructure::storage::StorageRoot;
use crate::maintenance::with_causes;

/// How long the database may take to be opened: a server would wait longer, an operator does not.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

const DATABASE: &str = "database";
const CREDENTIALS: &str = "credentials";
/// How the first key is made.
const FIRST_KEY: &str = "make a key: just_storage key create --tenant '*' --scope read,write,delete,admin";

pub(super) async fn examine(config: &Config) -> Vec<Check> {
    let url = &config.paths.database_url;
    let opened = match timeout(OPEN_LIMIT, Database::open_existing(url)).await {
        Ok(opened) => opened,
        Err(_) => {
            let found = format!("{url} has not answered within {} s", OPEN_LIMIT.as_secs());
            return vec![Check::wrong(DATABASE, found, of_reach(url))];
        }
    };
    let database = match opened {
        Ok(database) => database,
        Err(error) => return vec![unopened(url, &error)],
    };
    let mut checks = vec![Check::right(DATABASE, format!("{url} answers, and its schema is this program's"))];
    for class in StorageClass::ALL {
        checks.extend(belonging(&database, &config.paths, class).await);
    }
    checks.push(credentials(&database, config).await);
    database.close().await;
    checks
}

/// A database that is not there yet is none to complain of: the first start makes it.
fn unopened(url: &DatabaseUrl, error: &OpenError) -> Check {
    let found = with_causes(error);
    match (error, url) {
        (OpenError::Missing(_), _) => Check::right(DATABASE, format!("{url} is made at the first start")),
        (OpenError::Older { .. }, _) => {
            Check::right(DATABASE, format!("{url} answers; the next start brings its schema up to date"))
        }
        (OpenError::Foreign(_), DatabaseUrl::Postgres(_)) => {
            let found = format!("{url} answers, and has no tables of this program");
            Check::poor(DATABASE, found, "if it is meant to be used, the first start makes them")
        }
        (OpenError::Foreign(_), DatabaseUrl::Sqlite(_)) => {
            Check::wrong(DATABASE, found, "set DATABASE_URL or DATA_DIR to where this program's is")
        }
        (OpenError::Newer { .. }, _) => Check::wrong(DATABASE, found, "take the newer program"),
        (OpenError::Unreachable { .. }, _) => Check::wrong(DATABASE, found, of_reach(url)),
    }
}

fn of_reach(url: &DatabaseUrl) -> &'static str {
    match url {
        DatabaseUrl::Sqlite(_) => "see who may read it, and whether its disk is well",
        DatabaseUrl::Postgres(_) => {
            "see whether it runs, lets this machine in (pg_hba.conf), and knows user and password"
        }
    }
}

/// Whether a root is the one that the database knows. A disk that is not mounted looks like an empty one.
async fn belonging(database: &Database, paths: &StorePaths, class: StorageClass) -> Option<Check> {
    let name = format!("{class}_identity");
    let path = match class {
        StorageClass::Hot => &paths.hot_storage_root,
        StorageClass::Cold => &paths.cold_storage_root,
    };
    let known = match database.root(class).await {
        Ok(known) => known?.identity,
        Err(error) => return Some(Check::wrong(name, with_causes(&error), "run just_storage validate")),
    };
    let found = match StorageRoot::open_existing(class, path).and_then(|root| root.read_identity()) {
        Ok(Some(found)) if found == known => {
            return Some(Check::right(
                name,
                format!("{} is the root that the database knows", path.display()),
            ));
        }
        Ok(Some(_)) => format!("{} is a root of another database", path.display()),
        Ok(None) => format!("{} is none of this database's roots", path.display()),
        Err(error) => with_causes(&error),
    };
    Some(Check::wrong(name, found, "is its disk mounted? See that it is the right one"))
}

async fn credentials(database: &Database, config: &Config) -> Check {
    let tokens = match &config.authentication {
        Authentication::None if config.listen_addr.ip().is_loopback() => {
            return Check::right(CREDENTIALS, "none are asked for, on loopback");
        }
        Authentication::None => {
            let found = format!("none are asked for, and {} is not loopback", config.listen_addr);
            return Check::poor(
                CREDENTIALS,
                found,
                "set AUTH_MODE=required, or let only those reach it who may do everything",
            );
        }
        Authentication::Required { tokens } => tokens,
    };
    match (tokens, database.api_keys().await) {
        (_, Err(error)) => Check::wrong(CREDENTIALS, with_causes(&error), "run just_storage validate"),
        (None, Ok(keys)) if keys.iter().all(|key| key.revoked_at.is_some()) => {
            Check::poor(CREDENTIALS, "there is no key, so that nobody gets in yet", FIRST_KEY)
        }
        (None, Ok(keys)) => Check::right(CREDENTIALS, format!("API keys: {}", keys.len())),
        (Some(tokens), Ok(keys)) => {
            Check::right(CREDENTIALS, format!("API keys: {}; tokens by {tokens:?}", keys.len()))
        }
    }
}
