//! The runs that compare this server with its peers: described in files, carried out in turns, kept as JSON, shown as a
//! table and as plots.

mod description;
mod server;

mod runner;

mod results;

mod overview;
mod plot;
mod table;

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::command_line::{RenderOptions, RunOptions};
use crate::harness::results::Results;
use crate::harness::runner::Runner;

/// Runs scenarios, and writes what they gave.
pub(crate) async fn run(options: RunOptions) -> anyhow::Result<()> {
    let directory = options.results.clone();
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let mut runner = Runner::new(options)?;
    let stem = runner.results().file_stem();
    let json = directory.join(format!("{stem}.json"));
    while let Some(name) = runner.next_scenario() {
        runner.run_scenario(&name).await?;
        // After each scenario, so that a run that is ended early has not been for nothing.
        write_json(runner.results(), &json)?;
    }
    runner.remove_data();
    let output = directory.join(&stem);
    write_reports(runner.results(), &output)?;
    println!(
        "{}\n\nresults: {}\ntable and plots: {}",
        table::of(runner.results()),
        json.display(),
        output.display()
    );
    Ok(())
}

/// Makes table and plots of results that are there.
pub(crate) fn render(options: &RenderOptions) -> anyhow::Result<()> {
    let mut merged: Option<Results> = None;
    for path in &options.results {
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let results: Results =
            serde_json::from_str(&text).with_context(|| format!("{} holds no results", path.display()))?;
        merged = Some(match merged {
            Some(earlier) => earlier.replaced_by(results),
            None => results,
        });
    }
    merged.map_or(Ok(()), |results| write_reports(&results, &options.output))
}

fn write_json(results: &Results, path: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(results).context("the results could not be made JSON")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))
}

fn write_reports(results: &Results, output: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(output).with_context(|| format!("{} cannot be made", output.display()))?;
    let write = |name: &str, text: &str| {
        let path = output.join(name);
        fs::write(&path, text).with_context(|| format!("{} could not be written", path.display()))
    };
    write("table.md", &table::of(results))?;
    if let Some(drawing) = overview::of(results) {
        write("overview.svg", &drawing)?;
    }
    for scenario in &results.scenarios {
        for (kind, drawing) in plot::of(scenario) {
            write(&format!("{}-{kind}.svg", scenario.name), &drawing)?;
        }
    }
    Ok(())
}
