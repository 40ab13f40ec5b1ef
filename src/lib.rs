//! The engine of `cmbagent`: agent workflows for science as sequences of phases.
//!
//! Layers, top to bottom; arrows point down only:
//!
//! * `bindings` (feature `python`) — the only code that names pyo3.
//! * [`engine`] — status, state, registry, workflows, executor, and the one door for effects.
//! * [`phases`] — the built-in phases.
//! * [`agents`] — roster, prompts, plans, carry-over, transcript.
//! * [`llm`], [`exec`], [`library`], [`journal`] — models over HTTP, executed code, documentation, the record
//!   of a run.

pub mod agents;
pub mod engine;
pub mod error;
pub mod exec;
pub mod journal;
pub mod library;
pub mod llm;
mod pattern;
pub mod phases;

#[cfg(feature = "python")]
mod bindings;

pub use error::{Error, Result};
