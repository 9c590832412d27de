//! `just_storage doctor`: whether this machine is fit for a server with these settings, one line a matter, and how to
//! mend what is not. It takes the settings that `serve` takes, and is meant to be run as the user that the server runs
//! as, before the server does or beside it. Nothing that it tries stays: it writes a few files and removes them again.

mod files;
mod machine;
mod metadata;

use clap::Args;
use serde::Serialize;

use super::{MaintenanceError, Verdict};
use crate::config::ServeArguments;
use crate::domain::value_objects::StorageClass;
use files::{Ground, Purpose};

/// What `doctor` is told.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    serve: ServeArguments,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// How a matter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Right,
    /// The server works with it, and would work better or be safer without.
    Poor,
    /// The server would not start, or not do what it promises.
    Wrong,
}

/// One matter that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: String,
    state: State,
    found: String,
    /// How to mend it, where there is something to mend.
    remedy: Option<String>,
}

impl Check {
    fn right(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Right, found: found.into(), remedy: None }
    }

    fn poor(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Poor, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn wrong(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Wrong, found: found.into(), remedy: Some(remedy.into()) }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing is wrong. What is only poor does not count.
    fit: bool,
    checks: Vec<Check>,
}

pub(super) async fn examine(arguments: DoctorArguments) -> Result<Verdict, MaintenanceError> {
    let config = arguments.serve.into_config()?;
    let paths = &config.paths;
    let mut checks = machine::examine(&config);
    let grounds = [
        Ground::new(Purpose::DataDirectory, &paths.data_dir),
        Ground::new(Purpose::Root(StorageClass::Hot), &paths.hot_storage_root),
        Ground::new(Purpose::Root(StorageClass::Cold), &paths.cold_storage_root),
    ];
    for ground in &grounds {
        checks.extend(ground.examine(paths));
    }
    checks.push(files::clock(paths));
    checks.extend(metadata::examine(&config).await);
    let report = Report { fit: checks.iter().all(|check| check.state != State::Wrong), checks };
    match arguments.json {
        // A struct of texts always has a JSON form.
        true => println!("{}", serde_json::to_string(&report).unwrap_or_default()),
        false => print(&report),
    }
    Ok(if report.fit { Verdict::Clean } else { Verdict::NotClean })
}

fn print(report: &Report) {
    for check in &report.checks {
        let state = match check.state {
            State::Right => "right",
            State::Poor => "poor",
            State::Wrong => "WRONG",
        };
        let remedy = check.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
        println!("{state:<5}  {:<15}  {}{remedy}", check.name, check.found);
    }
    let wrong = report.checks.iter().filter(|check| check.state == State::Wrong).count();
    match wrong {
        0 => println!("fit"),
        _ => println!("not fit: {wrong} to mend"),
    }
}
