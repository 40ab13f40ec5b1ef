//! Model calls on a tape: recorded in one run, replayed in another one without a model.
//!
//! A tape is a text file with one JSON object a line: a head, then each call with its place, what was said and
//! what came back. The [`Recorder`] writes it and the [`Player`] reads it; both are providers. The work directory
//! stands on the tape as a word ([`home`]), a picture or a PDF as its hash, and no key at all.

mod copy;
mod differ;
mod home;
mod player;
mod recorder;
mod request;

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ocr::Reading;
use super::{LlmError, LlmErrorKind, Place, Reply, Request};
pub use copy::{Said, copy};
pub use player::Player;
pub use recorder::Recorder;

/// The version of the format; a reader refuses what is newer.
const VERSION: u32 = 1;

/// The run whose calls are recorded or replayed.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The run's id.
    pub run: String,
    /// The workflow's id.
    pub workflow: String,
    /// The task; only its hash is written.
    pub task: String,
    /// The work directory.
    pub work_dir: std::path::PathBuf,
}

/// Why a tape cannot be used at all.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TapeError {
    /// There is no such file.
    #[error("{0}")]
    Missing(String),
    /// It cannot be read or written, is of another kind, or of another run.
    #[error("{0}")]
    Unusable(String),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    /// The format's version.
    tape: u32,
    /// The package's version.
    cmbagent: String,
    /// The id of the recorded run.
    run: String,
    /// The workflow's id.
    workflow: String,
    /// The hash (BLAKE3) of the task.
    task: String,
}

impl Head {
    fn of(subject: &Subject) -> Self {
        Self {
            tape: VERSION,
            cmbagent: env!("CARGO_PKG_VERSION").into(),
            run: subject.run.clone(),
            workflow: subject.workflow.clone(),
            task: blake3::hash(subject.task.as_bytes()).to_hex().to_string(),
        }
    }
}

/// As much of the first line as any version of the format has.
#[derive(Deserialize)]
struct Version {
    tape: u32,
}

/// A further line: a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    place: Place,
    request: Request,
    #[serde(flatten)]
    came: Came,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Came {
    Reply(Reply),
    /// A document that was read.
    Pages(Reading),
    Error(Failure),
}

/// A call that failed for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Failure {
    kind: LlmErrorKind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    model: String,
}

/// A tape as it was read.
#[derive(Debug)]
struct Tape {
    head: Head,
    calls: HashMap<Place, Line>,
    /// The bytes of its whole lines; what follows was cut off while it was written.
    whole: u64,
}

impl Tape {
    fn read(path: &Path) -> Result<Self, TapeError> {
        let shown = path.display();
        let text = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => TapeError::Missing(format!(
                "there is no tape {shown}; give the file that an earlier run wrote with record="
            )),
            _ => TapeError::Unusable(format!("the tape {shown} cannot be read: {error}")),
        })?;
        let no_tape = |what: String| TapeError::Unusable(format!("{shown} is no usable tape: {what}"));
        // A line is written in one go with its end; one without an end was cut by a crash.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut lines = text[..whole].split(|byte| *byte == b'\n').zip(1_usize..);
        let first = lines.next().filter(|(line, _)| !line.is_empty());
        let (first, _) = first.ok_or_else(|| no_tape("it has no first line".into()))?;
        let version: Version = serde_json::from_slice(first)
            .map_err(|_| no_tape("its first line does not say {\"tape\": …}".into()))?;
        if version.tape > VERSION {
            return Err(no_tape(format!(
                "its format is {}, this version reads up to {VERSION}; use a newer version of cmbagent",
                version.tape
            )));
        }
        let head = serde_json::from_slice(first).map_err(|error| no_tape(format!("line 1: {error}")))?;
        let mut calls = HashMap::new();
        for (line, number) in lines.filter(|(line, _)| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line)
                .map_err(|error| no_tape(format!("line {number} is no call: {error}")))?;
            // A call that was made again after a crash stands there twice; the last one counted.
            calls.insert(line.place.clone(), line);
        }
        Ok(Self { head, calls, whole: whole as u64 })
    }
}

impl From<LlmError> for Came {
    fn from(LlmError { kind, message, status, model }: LlmError) -> Self {
        Self::Error(Failure { kind, message, status, model })
    }
}

fn tape_error(message: String, model: &str) -> LlmError {
    LlmError { kind: LlmErrorKind::Tape, message, status: None, model: model.into() }
}
