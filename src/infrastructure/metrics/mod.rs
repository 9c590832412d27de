//! What is counted of the store's work, and how it is told. Each core counts in cells of its own, and so does the
//! metadata plane: a plain load and store, which no other core ever waits for. Whoever is asked for metrics adds them up,
//! off the cores.
//!
//! ```text
//! core 0 ─► its cells ─┐
//! core 1 ─► its cells ─┼─► merged when asked ─► text
//! metadata ─► its own ─┘
//! ```
//! Labels that come from outside are bounded ([`Words`]): what is past the bound counts as [`OTHER`].

mod cells;
mod core_metrics;
mod exposition;
mod phases;
mod plane_metrics;
mod process;
mod scrub_metrics;
mod store_figures;
mod store_metrics;
mod words;

pub use cells::{Counter, Durations, Merged, Sizes};
pub use core_metrics::{CoreMetrics, RootMetrics};
pub use exposition::{Exposition, Family, Kind};
pub use phases::{Phase, Phases, note, note_since, timed};
pub use plane_metrics::{PlaneMetrics, PlaneState};
pub use process::write_process;
pub use scrub_metrics::{ScrubMetrics, ScrubPass};
pub use store_figures::{ObjectCounts, PackFigures, RootFigures, TENANTS_SHOWN_MAX};
pub use store_metrics::{Names, StoreMetrics};
pub use words::Words;

/// The label of all that is past a bound.
pub const OTHER: &str = "other";
