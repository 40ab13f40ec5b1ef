//! What the engine and the supervisor say to each other: one JSON object a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sandbox::Policy;
use super::{Check, Execution, Facts, Script};

/// Engine to supervisor, on its standard input; the end of the input ends the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub(super) enum Request {
    /// Compile without running.
    Check { id: u64, source: String, filename: String },
    /// Describe the machine.
    Facts { id: u64 },
    /// Run a script.
    Run { id: u64, job: Box<Job> },
    /// End the script of that request.
    Cancel { id: u64 },
}

/// A script to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The interpreter.
    pub(super) python: PathBuf,
    pub(super) script: Script,
    /// The environment, exactly.
    pub(super) environment: Vec<(String, String)>,
    /// What confines it.
    pub(super) policy: Policy,
}

/// Supervisor to engine, on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Event {
    /// The first line that counts. What stands before it comes from the interpreter's own
    /// start-up (a `.pth` file that prints, say) and is not ours.
    Ready,
    /// Text of a running script.
    Output { id: u64, text: String },
    /// Answer to [`Request::Check`].
    Checked { id: u64, check: Check },
    /// Answer to [`Request::Facts`].
    Facts { id: u64, facts: Facts },
    /// A script's end.
    Done { id: u64, execution: Execution },
    /// A script could not be started.
    Failed { id: u64, message: String },
}
