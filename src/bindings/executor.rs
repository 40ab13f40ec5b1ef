//! The engine's executor behind `cmbagent.workflows.WorkflowExecutor`.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::{intern, prelude::*};
use serde_json::{Value, json};

use super::aio::Awaitable;
use super::bridge::Bridge;
use super::door::RunHandle;
use super::phase::{PyPhase, result};
use super::state::PyState;
use super::store::PyJournal;
use super::{convert, errors, services, snapshot, tape};
use crate::engine::executor::{Workflow, execute};
use crate::engine::ledger::Line;
use crate::engine::limits::NAMES;
use crate::engine::run::Services;
use crate::engine::{self, Limits, Outcome, Phase, Run, State, Why, workflow};
use crate::error::{Error, Result};
use crate::journal::{Journal, MemoryJournal};
use crate::llm::traffic;
use crate::phases::rehearsal::{self, Rehearsal, Unrun};
use crate::phases::reports;

/// Steers a run from any thread.
#[pyclass(frozen, module = "cmbagent._core")]
#[derive(Default)]
pub(super) struct Control(engine::Control);

#[pymethods]
impl Control {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Lets the phase that runs go on to its end, and no other begin.
    fn stop(&self) {
        self.0.stop();
    }

    /// Cuts what is going on.
    fn cancel(&self) {
        self.0.cancel(Why::Requested);
    }

    /// Cuts what is going on, for another process to go on with: this one was told to end.
    fn interrupt(&self) {
        self.0.cancel(Why::Preempted);
    }

    /// Holds the run before its next effect.
    fn pause(&self) {
        self.0.pause();
    }

    /// Ends a pause.
    fn resume(&self) {
        self.0.resume();
    }

    /// Whether the run was asked to end, in either way.
    #[getter]
    fn ending(&self) -> bool {
        self.0.ending()
    }

    /// Whether the run is held before its next effect.
    #[getter]
    fn paused(&self) -> bool {
        self.0.paused()
    }
}

/// A live `WorkflowExecutor`.
struct PyWorkflow {
    executor: Py<PyAny>,
    /// Whether nothing is carried out, and so nothing is reported.
    rehearsed: bool,
    /// The result of the phase that was recorded last.
    last: Mutex<Option<Py<PyAny>>>,
}

impl PyWorkflow {
    fn with<T>(&self, act: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T> {
        Python::attach(|py| act(self.executor.bind(py)).map_err(|error| errors::foreign(py, error)))
    }
}

impl Workflow for PyWorkflow {
    fn about(&self) -> Result<Value> {
        self.with(|executor| {
            let definition = executor.getattr("workflow")?;
            let phases: Vec<String> = executor
                .getattr("phases")?
                .try_iter()?
                .map(|phase| phase?.getattr("phase_type")?.extract())
                .collect::<PyResult<_>>()?;
            Ok(json!({
                "task": executor.getattr("task")?.str()?.to_string(),
                "work_dir": executor.getattr("work_dir")?.str()?.to_string(),
                "workflow_id": definition.getattr("id")?.str()?.to_string(),
                "workflow_name": definition.getattr("name")?.str()?.to_string(),
                "phases": phases,
            }))
        })
    }

    fn first(&self, phase_id: &str) -> Result<Arc<dyn State>> {
        self.with(|executor| {
            let py = executor.py();
            let context = executor
                .getattr(intern!(py, "context"))?
                .call_method1(intern!(py, "to_phase_context"), (phase_id,))?;
            Ok(Arc::new(PyState(context.unbind())) as Arc<dyn State>)
        })
    }

    fn enter(&self, index: usize) -> Result<()> {
        self.with(|executor| executor.setattr(intern!(executor.py(), "current_phase_index"), index))
    }

    fn skip(&self, index: usize) -> Result<()> {
        self.with(|executor| {
            executor.getattr(intern!(executor.py(), "skipped"))?.call_method1("append", (index,)).map(drop)
        })
    }

    fn record(&self, outcome: &Outcome) -> Result<()> {
        self.with(|executor| {
            let py = executor.py();
            let result = result(py, outcome)?;
            executor.getattr(intern!(py, "results"))?.call_method1(intern!(py, "append"), (&result,))?;
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(result.unbind());
            Ok(())
        })
    }

    fn update(&self, _: &Outcome) -> Result<()> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.with(|executor| {
            let py = executor.py();
            let context = executor.getattr(intern!(py, "context"))?;
            context.call_method1(intern!(py, "update_from_phase_result"), (last,)).map(drop)
        })
    }

    fn restore(&self, state: Arc<dyn State>, kept: &Value) -> Result<(Arc<dyn State>, Vec<String>)> {
        Python::attach(|py| {
            let restore = || {
                let (sections, lost) = snapshot::decode(py, kept)?;
                let context = super::state::context(py, state.as_ref())?;
                for (name, attribute) in
                    [("shared", intern!(py, "shared_state")), ("output", intern!(py, "output_data"))]
                {
                    let section = sections.get_item(name)?;
                    // What is not kept, such as the approval manager, comes from this life.
                    let here = context.getattr(attribute)?;
                    for pair in here.call_method0("items")?.try_iter()? {
                        let (key, item): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
                        if key.extract::<String>().is_ok_and(|key| key.starts_with('_')) {
                            section.set_item(key, item)?;
                        }
                    }
                    context.setattr(attribute, section)?;
                }
                Ok(lost)
            };
            restore().map_err(|error: PyErr| errors::foreign(py, error))
        })
        .map(|lost| (state, lost))
    }

    fn settle(&self, run_id: &str, lines: &[Line]) -> Result<Option<Value>> {
        if self.rehearsed {
            return Ok(None);
        }
        let work_dir = self.with(|executor| Ok(executor.getattr("work_dir")?.str()?.to_string()))?;
        reports::rest(work_dir.as_ref(), run_id, lines)
    }

    fn finish(&self, seconds: f64) -> Result<()> {
        self.with(|executor| {
            executor.getattr("context")?.getattr("phase_timings")?.set_item("total", seconds)
        })
    }
}

/// Does a run's work. One that a custom phase of the run `above` makes is cancelled with that run,
/// and what it costs counts there too.
async fn within<T>(above: Option<&Run>, run: &Run, work: impl Future<Output = T>) -> T {
    let Some(above) = above else { return work.await };
    let mut work = std::pin::pin!(work);
    let ended = tokio::select! {
        biased;
        ended = &mut work => ended,
        () = above.control().cut() => {
            run.control().cancel(above.control().why().unwrap_or(Why::Requested));
            work.await
        }
    };
    for line in run.ledger().since(0) {
        above.ledger().add(line);
    }
    ended
}

/// An executor's run, ready to go.
struct Assembled {
    bridge: Bridge,
    control: engine::Control,
    above: Option<Run>,
    run: Run,
    phases: Vec<Arc<dyn Phase>>,
    workflow: PyWorkflow,
}

/// Puts an executor's run together; `change` may replace its ports.
fn assemble(
    executor: &Bound<'_, PyAny>,
    journal: Arc<dyn Journal>,
    change: impl FnOnce(&mut Services) -> PyResult<()>,
) -> PyResult<Assembled> {
    let py = executor.py();
    let bridge = Bridge::default();
    let manager = executor.getattr("approval_manager")?;
    let manager = (!manager.is_none()).then(|| manager.unbind());
    let callbacks = executor.getattr("callbacks")?.unbind();
    let listener = executor.call_method0("_make_listener")?.unbind();
    let current = py.import(intern!(py, "cmbagent._current"))?;
    let keys = current.call_method1(intern!(py, "keys"), (executor.getattr("api_keys")?,))?.unbind();
    let copy = |manager: &Option<Py<PyAny>>| manager.as_ref().map(|m| m.clone_ref(py));
    let above = current.call_method0("get")?;
    let above = above.cast::<RunHandle>().ok().map(|handle| handle.get().run.clone());
    let mut services = services::build(py, &bridge, keys, copy(&manager), listener, journal)?;
    services.provider = tape::provider(executor, services.provider, above.as_ref())?;
    change(&mut services)?;
    let phases: Vec<Arc<dyn Phase>> = executor
        .getattr("phases")?
        .try_iter()?
        .map(|phase| {
            let phase = PyPhase::new(&phase?, &bridge, callbacks.clone_ref(py), copy(&manager))?;
            Ok(Arc::new(phase) as Arc<dyn Phase>)
        })
        .collect::<PyResult<_>>()?;
    let id: String = executor.getattr("context")?.getattr("run_id")?.extract()?;
    let attempt: u32 = executor.getattr("_attempt")?.extract()?;
    let whole = executor.getattr("_control")?.cast::<Control>()?.get().0.clone();
    // A part, so that what cancels this attempt leaves the executor fit for another.
    let control = above.as_ref().map_or_else(|| whole.part(), |above| whole.part_within(above.control()));
    let forced: bool = executor.getattr("_forced")?.extract()?;
    let limits = Limits::of(&convert::to_json(&executor.getattr("limits")?));
    let limits = limits.map_err(|error| errors::to_exception(py, &error))?;
    let run = py.detach(|| Run::resuming(id, above.as_ref(), services, control.clone(), forced));
    let run = run.map_err(|error| errors::to_exception(py, &error))?.at_attempt(attempt).within(limits);
    let workflow =
        PyWorkflow { executor: executor.clone().unbind(), rehearsed: false, last: Mutex::default() };
    Ok(Assembled { bridge, control, above, run, phases, workflow })
}

/// Runs a `WorkflowExecutor`'s phases; awaited, it gives the run's final status as a word.
#[pyfunction]
pub(super) fn run_workflow(executor: &Bound<'_, PyAny>) -> PyResult<Awaitable> {
    let journal = executor.getattr("_journal")?;
    let journal: Arc<dyn Journal> = match journal.cast::<PyJournal>() {
        Ok(journal) => journal.get().journal.clone(),
        Err(_) => Arc::<MemoryJournal>::default(),
    };
    let Assembled { bridge, control, above, run, phases, workflow } =
        assemble(executor, journal, |_| Ok(()))?;
    Ok(Awaitable::new(bridge, control, async move {
        let ended = within(above.as_ref(), &run, execute(&run, &phases, &workflow)).await;
        Python::attach(|py| match ended {
            Ok(status) => Ok(status.as_str().into_pyobject(py)?.into_any().unbind()),
            Err(error) => Err(errors::to_exception(py, &error)),
        })
    }))
}

/// Goes through a `WorkflowExecutor`'s phases without a model and without a script; awaited, it gives the
/// calls with what each may cost.
#[pyfunction]
pub(super) fn rehearse(executor: &Bound<'_, PyAny>, steps: usize, tries: u64) -> PyResult<Awaitable> {
    let journal = Arc::<MemoryJournal>::default();
    let prices = Arc::new(services::prices()?);
    let (known, runner) = (prices.clone(), services::runner(executor.py())?);
    let Assembled { bridge, control, run, phases, mut workflow, .. } =
        assemble(executor, journal.clone(), |services| {
            services.provider = Arc::new(Rehearsal::new(known, steps));
            services.runner = Arc::new(Unrun(runner));
            Ok(())
        })?;
    workflow.rehearsed = true;
    Ok(Awaitable::new(bridge, control, async move {
        let rehearsed = async {
            execute(&run, &phases, &workflow).await?;
            rehearsal::calls(&journal.records(1)?, &prices, tries)
        };
        let rehearsed = rehearsed.await;
        Python::attach(|py| match rehearsed {
            Ok(calls) => Ok(convert::to_python(py, &Value::Array(calls))?.unbind()),
            Err(error) => Err(errors::to_exception(py, &error)),
        })
    }))
}

/// Says what is wrong with the limits among some settings, before anything is run.
#[pyfunction]
pub(super) fn check_limits(settings: &Bound<'_, PyAny>) -> PyResult<()> {
    let limits = Limits::of(&convert::to_json(settings));
    limits.map(drop).map_err(|error| errors::to_exception(settings.py(), &error))
}

/// The names of the settings that are limits.
#[pyfunction]
pub(super) fn limit_names() -> Vec<&'static str> {
    NAMES.to_vec()
}

/// Sets how fast this process may ask providers.
#[pyfunction]
pub(super) fn set_rates(rates: &Bound<'_, PyAny>) -> PyResult<()> {
    let read = serde_json::from_value(convert::to_json(rates)).map_err(|error| error.to_string());
    read.and_then(traffic::set_rates).map_err(|words| {
        let error = Error::Configuration(format!("rates cannot be used: {words}"));
        errors::to_exception(rates.py(), &error)
    })
}

/// The system workflows as plain dictionaries, in order.
#[pyfunction]
pub(super) fn system_workflows(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    convert::to_python(py, &json!(workflow::system_workflows()))
}
