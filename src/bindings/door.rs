//! The run as phases of users reach it: `context.run` has models called, humans asked and things
//! looked at through the same door as the built-in phases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyTimeoutError;
use pyo3::types::PyDict;
use pyo3::{intern, prelude::*};
use serde_json::{Value, json};

use super::aio::Awaitable;
use super::approvals::PyApprovals;
use super::bridge::Bridge;
use super::phase::{approval_manager, fields};
use super::state::PyState;
use super::{convert, errors, services};
use crate::agents::parse;
use crate::agents::prompts::Prompt;
use crate::engine::{Answer, Control, Question, Run, State};
use crate::error::{Error, Result};
use crate::journal::MemoryJournal;
use crate::llm::fetch::Bounds;
use crate::llm::{Schema, ocr};
use crate::phases::{config, hitl_checkpoint, reports, script};

/// The run that a phase is part of: models, scripts, humans and observations through the engine's door.
///
/// What is done here is recorded before it is used, so a resumed run does not repeat it; it counts against the
/// run's limits, waits while the run is paused, and ends when the run is cancelled. Cancelling one call ends
/// nothing else.
#[pyclass(frozen, module = "cmbagent._core")]
pub(super) struct RunHandle {
    pub(super) run: Run,
    phase_type: String,
    phase_id: String,
    work_dir: String,
    /// The phase, whose configuration is read when a call needs it.
    phase: Option<Py<PyAny>>,
    approval_manager: Option<Py<PyAny>>,
    /// Where in the ledger the next report of costs begins.
    mark: AtomicUsize,
}

impl RunHandle {
    /// The handle of a phase; a `max_rounds` in its configuration limits its calls.
    pub(super) fn new(
        run: &Run,
        phase_type: &str,
        state: &dyn State,
        phase: Option<&Bound<'_, PyAny>>,
        approval_manager: Option<Py<PyAny>>,
    ) -> Self {
        let rounds = phase.and_then(|phase| {
            let config = phase.getattr(intern!(phase.py(), "config")).ok()?;
            config.getattr(intern!(phase.py(), "max_rounds")).ok()?.extract::<u32>().ok()
        });
        let run = rounds.map_or_else(|| run.clone(), |limit| run.with_call_limit("max_rounds", limit));
        let (phase_id, work_dir, mark) =
            (state.phase_id(), state.work_dir(), AtomicUsize::new(run.ledger().mark()));
        let phase = phase.map(|phase| phase.clone().unbind());
        Self { run, phase_type: phase_type.into(), phase_id, work_dir, phase, approval_manager, mark }
    }

    fn config(&self, py: Python<'_>) -> Value {
        self.phase.as_ref().map(|phase| fields(phase.bind(py))).unwrap_or_default()
    }

    /// A part of the run for one call.
    fn part(&self, bridge: &Bridge) -> Run {
        let manager = self.approval_manager.as_ref();
        let manager = manager.map(|manager| Python::attach(|py| manager.clone_ref(py)));
        let approvals = PyApprovals { manager, bridge: bridge.clone() };
        self.run.nested(&self.phase_type).asking(Arc::new(approvals))
    }
}

/// An awaitable of what `work` comes to.
fn awaitable<F>(bridge: Bridge, run: &Run, work: F) -> Awaitable
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    Awaitable::new(bridge, run.control().clone(), async move {
        let ended = work.await;
        Python::attach(|py| match ended {
            Ok(value) => Ok(convert::to_python(py, &value)?.unbind()),
            Err(error) => Err(errors::to_exception(py, &error)),
        })
    })
}

#[pymethods]
impl RunHandle {
    /// The run's id.
    #[getter]
    fn run_id(&self) -> &str {
        self.run.id()
    }

    /// The id of the first of the runs that made this one, or its own.
    #[getter]
    fn root_id(&self) -> &str {
        self.run.root_id()
    }

    /// The id of a run that the phase makes now: the same when a later life makes it again.
    fn child_run_id(&self) -> String {
        self.run.child_id()
    }

    /// The number of the next run that the phase makes.
    fn next_number(&self) -> u32 {
        self.run.next_within()
    }

    /// Whether a later life will read what the run records.
    #[getter]
    fn durable(&self) -> bool {
        self.run.journal().keeps()
    }

    /// Whether the run was asked to end, now or after this phase.
    #[getter]
    fn stopped(&self) -> bool {
        self.run.control().ending()
    }

    /// Whether the run was cancelled: this phase, too, is to end now.
    #[getter]
    fn cancelled(&self) -> bool {
        self.run.control().cancelled()
    }

    /// Calls a model.
    ///
    /// Args:
    ///     prompt: what it is asked.
    ///     agent: who speaks: the name under which settings, costs and tests know the call.
    ///     system: what follows `You are the <agent> agent.` in the system prompt.
    ///     schema: JSON Schema of the answer; without it the answer is text.
    ///     model: the model, unless `model_overrides` or `agent_llm_configs` name one for this agent; without
    ///         any it is `default_llm_model`.
    ///
    /// Returns:
    ///     The text, or with `schema` the dict that fits it.
    ///
    /// Raises:
    ///     ModelError: the call failed for good; its subclasses say how.
    ///     OverLimitError: a limit of the run or the phase does not allow it.
    ///     RunStoppedError: the run was cancelled.
    #[pyo3(signature = (prompt, *, agent = "assistant", system = None, schema = None, model = None))]
    fn call(
        &self,
        prompt: String,
        agent: &str,
        system: Option<&str>,
        schema: Option<&Bound<'_, PyDict>>,
        model: Option<&str>,
        py: Python<'_>,
    ) -> PyResult<Awaitable> {
        let speaker = config::speaker(self.config(py), agent, model)
            .map_err(|error| errors::to_exception(py, &error))?;
        let opening = format!("You are the {agent} agent.");
        let system = system.map_or_else(|| opening.clone(), |more| format!("{opening} {more}"));
        let prompt = Prompt { system, user: prompt, ..Prompt::default() };
        let schema = schema.map(|schema| Schema { name: "answer".into(), schema: convert::to_json(schema) });
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        Ok(awaitable(bridge, &run.clone(), async move {
            match schema {
                None => Ok(Value::String(speaker.text(&run, &prompt).await?)),
                Some(schema) => Ok(speaker.structured(&run, &prompt, &schema, parse::object).await?.0),
            }
        }))
    }

    /// Runs a Python script in the phase's directory, in the sandbox, as the engineer's scripts are run.
    ///
    /// Args:
    ///     code: the script.
    ///     filename: its name below `codebase/`; without it one is made up.
    ///     timeout_seconds: how long it may take, in seconds; without it the phase's `script_timeout_seconds`,
    ///         and without that as long as it likes.
    ///
    /// Returns:
    ///     A dict with `success`, `exit` (in words), `output`, `seconds`, `file`, `files` (what it wrote) and
    ///     `log_path`. A script that fails raises nothing.
    ///
    /// Raises:
    ///     ExecutionError: it could not be started.
    ///     RunStoppedError: the run was cancelled, and the script with it.
    #[pyo3(signature = (code, *, filename = None, timeout_seconds = None))]
    fn execute(
        &self,
        py: Python<'_>,
        code: String,
        filename: Option<String>,
        timeout_seconds: Option<f64>,
    ) -> Awaitable {
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        let (work_dir, below, config) = (self.work_dir.clone(), self.phase_type.clone(), self.config(py));
        awaitable(bridge, &run.clone(), async move {
            script::perform(&run, &work_dir, &below, config, &code, filename.as_deref(), timeout_seconds)
                .await
        })
    }

    /// Asks a human, through the workflow's approval manager.
    ///
    /// Args:
    ///     message: the question.
    ///     options: the answers there are. The first counts, with a warning, where there is nobody to ask.
    ///     checkpoint_type: a word by which a manager tells questions apart.
    ///     context: what the manager is shown beside the question, such as `{"plan": …}`.
    ///     timeout_seconds: how long an answer is waited for, in seconds.
    ///
    /// Returns:
    ///     A dict with `resolution` (one of `options`), `user_feedback` and `modifications`, and
    ///     `no_hitl_manager: True` where nobody was asked.
    ///
    /// Raises:
    ///     TimeoutError: nobody answered in time.
    ///     ConfigurationError: the manager failed.
    ///     RunStoppedError: the run was cancelled.
    #[pyo3(signature = (message, options, *, checkpoint_type = "custom", context = None, timeout_seconds = 3600))]
    fn ask(
        &self,
        message: String,
        options: Vec<String>,
        checkpoint_type: &str,
        context: Option<&Bound<'_, PyAny>>,
        timeout_seconds: u64,
    ) -> Awaitable {
        let question = Question {
            run_id: self.run.id().into(),
            step_id: self.phase_id.clone(),
            checkpoint_type: checkpoint_type.into(),
            context_snapshot: context.map_or_else(|| json!({}), convert::to_json),
            message,
            options,
            timeout_seconds,
        };
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        awaitable(bridge, &run.clone(), async move {
            if !run.has_approvals() {
                let message = "there is no approval manager to ask: the first option counts as the answer";
                run.tell("", "warning", json!({"message": message})).await?;
                return Ok(json!({
                    "resolution": question.options.first(), "user_feedback": null, "modifications": null,
                    "no_hitl_manager": true,
                }));
            }
            match hitl_checkpoint::answer(&run, question).await? {
                Answer::Given { resolution, user_feedback, modifications } => Ok(json!({
                    "resolution": resolution, "user_feedback": user_feedback, "modifications": modifications,
                })),
                Answer::TimedOut => Err(Python::attach(|py| {
                    let words = format!("nobody answered within {timeout_seconds} s");
                    errors::foreign(py, PyTimeoutError::new_err(words))
                })),
                Answer::Failed { error } => Err(Error::Configuration(format!("asking failed: {error}"))),
            }
        })
    }

    /// Looks at something outside the run: a clock, a file, a service.
    ///
    /// Args:
    ///     what: a word for it in the record.
    ///     look: is called without arguments; what it returns is kept as JSON.
    ///     thread: whether it is called in another thread, for what takes long.
    ///
    /// Returns:
    ///     What `look()` returned, now or when the run was first here.
    ///
    /// Raises:
    ///     Exception: whatever `look` raises, as it is.
    #[pyo3(signature = (what, look, *, thread = false))]
    fn observe(&self, what: String, look: Py<PyAny>, thread: bool) -> Awaitable {
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        awaitable(bridge, &run.clone(), async move {
            let look = move || {
                Python::attach(|py| {
                    let seen = look.bind(py).call0();
                    seen.map(|value| convert::to_json(&value)).map_err(|error| errors::foreign(py, error))
                })
            };
            if thread { run.observe(&what, look).await } else { run.observe_here(&what, look).await }
        })
    }

    /// Downloads a document.
    ///
    /// Args:
    ///     url: its address, `http` or `https`; five redirections are followed.
    ///     path: the file to write.
    ///     max_bytes: what is larger is refused.
    ///     timeout_seconds: how long it may take, in seconds.
    ///
    /// Returns:
    ///     A dict with `url` (where it was in the end), `bytes`, `content_type` and `hash`.
    ///
    /// Raises:
    ///     DownloadError: it cannot be had.
    #[pyo3(signature = (url, path, *, max_bytes = Bounds::default().bytes, timeout_seconds = Bounds::default().seconds))]
    fn download(&self, url: String, path: PathBuf, max_bytes: u64, timeout_seconds: f64) -> Awaitable {
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        let bounds = Bounds { bytes: max_bytes, seconds: timeout_seconds, ..Bounds::default() };
        awaitable(bridge, &run.clone(), async move { Ok(json!(run.download(&url, &path, bounds).await?)) })
    }

    /// Has a model read a PDF.
    ///
    /// Args:
    ///     path: the file.
    ///     model: a model for documents; the key is `MISTRAL_API_KEY`.
    ///
    /// Returns:
    ///     A dict with `pages` (Markdown), `pages_processed`, `doc_size_bytes` and `cost` in dollars.
    ///
    /// Raises:
    ///     ModelError: it could not be read.
    #[pyo3(signature = (path, *, model = ocr::MODEL))]
    fn read_pdf(&self, path: PathBuf, model: &str) -> Awaitable {
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        let model = model.to_owned();
        awaitable(bridge, &run.clone(), async move { Ok(json!(run.read_pdf(&path, &model).await?)) })
    }

    /// Writes a report of what the phase's calls have cost since its last report.
    ///
    /// Args:
    ///     directory: where to.
    ///     stem: how its file's name begins.
    ///
    /// Returns:
    ///     A dict with the report's `path` and its `rows`.
    #[pyo3(signature = (directory, *, stem = "cost_report"))]
    fn report_costs(&self, directory: PathBuf, stem: &str) -> Awaitable {
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        let from = self.mark.swap(run.ledger().mark(), Ordering::Relaxed);
        let (lines, stem) = (run.ledger().since(from), stem.to_owned());
        awaitable(bridge, &run.clone(), async move {
            let costs = reports::costs(&run, &directory, &stem, &lines).await?;
            Ok(json!({"path": costs.path, "rows": costs.rows}))
        })
    }

    /// Writes a report of durations and their total.
    ///
    /// Args:
    ///     directory: where to.
    ///     times: name → seconds.
    ///     stem: how its file's name begins.
    ///
    /// Returns:
    ///     The report's path.
    #[pyo3(signature = (directory, times, *, stem = "timing_report"))]
    fn report_times(&self, directory: PathBuf, times: BTreeMap<String, f64>, stem: &str) -> Awaitable {
        let bridge = Bridge::default();
        let run = self.part(&bridge);
        let stem = stem.to_owned();
        awaitable(bridge, &run.clone(), async move {
            let times: Vec<(&str, f64)> = times.iter().map(|(name, s)| (name.as_str(), *s)).collect();
            Ok(json!(reports::times(&run, &directory, &stem, &times).await?))
        })
    }
}

/// The run of a phase that is executed on its own, outside a workflow.
#[pyfunction]
pub(super) fn open_run(context: &Bound<'_, PyAny>) -> PyResult<RunHandle> {
    let py = context.py();
    let current = py.import(intern!(py, "cmbagent._current"))?;
    let keys = current.call_method1(intern!(py, "keys"), (context.getattr(intern!(py, "api_keys"))?,))?;
    let listener = current.call_method1(intern!(py, "listener"), (context,))?;
    let manager = approval_manager(context)?;
    let journal = Arc::<MemoryJournal>::default();
    let services = services::build(py, &Bridge::default(), keys.unbind(), None, listener.unbind(), journal)?;
    let text = |name: &str| Ok::<_, PyErr>(context.getattr(name)?.str()?.to_string());
    let state = PyState(context.clone().unbind());
    let phase_id = state.phase_id();
    let run = Run::new(text("run_id")?, services, Control::default());
    let run = run.map_err(|error| errors::to_exception(py, &error))?.at_phase(0, 0, &phase_id);
    Ok(RunHandle::new(&run, &phase_id, &state, None, manager))
}
