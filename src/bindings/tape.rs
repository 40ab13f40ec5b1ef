//! The models of a `WorkflowExecutor` that records or replays its calls.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::{intern, prelude::*};

use super::errors;
use crate::engine::Run;
use crate::error::Error;
use crate::llm::Provider;
use crate::llm::tape::{self, Player, Recorder, Said, Subject};

/// What the executor's calls go to: `own`, or what its `record` and `replay` make of it. An executor
/// without either that runs within another run is part of that one's tape.
pub(super) fn provider(
    executor: &Bound<'_, PyAny>,
    own: Arc<dyn Provider>,
    above: Option<&Run>,
) -> PyResult<Arc<dyn Provider>> {
    let py = executor.py();
    let record: Option<PathBuf> = executor.getattr(intern!(py, "record"))?.extract()?;
    let replay: Option<PathBuf> = executor.getattr(intern!(py, "replay"))?.extract()?;
    let strict = executor.getattr(intern!(py, "strict"))?.is_truthy()?;
    let text =
        |object: &Bound<'_, PyAny>, name: &str| Ok::<_, PyErr>(object.getattr(name)?.str()?.to_string());
    let subject = || {
        Ok::<_, PyErr>(Subject {
            run: text(&executor.getattr("context")?, "run_id")?,
            workflow: text(&executor.getattr("workflow")?, "id")?,
            task: text(executor, "task")?,
            work_dir: text(executor, "work_dir")?.into(),
        })
    };
    let opened = match (record, replay) {
        (Some(path), _) => {
            Recorder::open(&path, own, &subject()?).map(|tape| Arc::new(tape) as Arc<dyn Provider>)
        }
        (None, Some(path)) => Player::open(&path, own, &subject()?, strict).map(|tape| Arc::new(tape) as _),
        (None, None) => {
            let Some(above) = above else { return Ok(own) };
            let number: Option<u32> = executor.getattr(intern!(py, "_number_within"))?.extract()?;
            return Ok(above.provider_within(number.unwrap_or_else(|| above.next_within()), own));
        }
    };
    opened.map_err(|error| errors::to_exception(py, &error.into()))
}

/// The tape that recording a run would have made, from its calls, a JSON object each.
#[pyfunction]
pub(super) fn tape_of(
    py: Python<'_>,
    run: String,
    workflow: String,
    task: String,
    work_dir: PathBuf,
    calls: Vec<String>,
) -> PyResult<String> {
    let subject = Subject { run, workflow, task, work_dir };
    let read = || {
        let calls = calls.iter().map(|call| serde_json::from_str::<Said>(call));
        tape::copy(&subject, calls.collect::<serde_json::Result<_>>()?)
    };
    py.detach(read).map_err(|error| {
        let words = format!("run {} has a record of a call that cannot be read: {error}", subject.run);
        errors::to_exception(py, &Error::Journal(words))
    })
}
