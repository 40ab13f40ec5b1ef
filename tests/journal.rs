//! Journals: what every implementation keeps, and what the store of runs promises.
#![allow(clippy::unwrap_used)]

#[path = "journal/conformance.rs"]
mod conformance;
#[path = "journal/damage.rs"]
mod damage;
#[path = "journal/runs.rs"]
mod runs;
#[path = "journal/sharing.rs"]
mod sharing;
#[path = "journal/shelf.rs"]
mod shelf;
#[path = "journal/store.rs"]
mod store;
