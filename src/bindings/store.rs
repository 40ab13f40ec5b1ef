//! The store of runs behind `cmbagent.store`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Value, json};

use super::aio::Awaitable;
use super::bridge::Bridge;
use super::{convert, errors};
use crate::engine::Control;
use crate::engine::executor;
use crate::error::{Error, Result};
use crate::journal::Claim;
use crate::journal::runs::Wanted;
use crate::journal::{Demand, Entry, Journal, Position, SqliteJournal, Store, Taken, lease, place};
use crate::llm::routing;
use crate::phases;

/// A store of runs; see `cmbagent.store.Store`.
#[pyclass(frozen, name = "Store", module = "cmbagent._core")]
pub(super) struct PyStore(Arc<Store>);

/// A run that this process owns until the object is dropped.
#[pyclass(frozen, name = "Journal", module = "cmbagent._core")]
pub(super) struct PyJournal {
    pub(super) journal: Arc<SqliteJournal>,
}

#[pymethods]
impl PyJournal {
    /// The last execution that has any record; `None` of a new run.
    #[getter]
    fn attempt(&self) -> Option<u32> {
        self.journal.attempt()
    }

    /// Has the phase at this index, and all after it, done anew.
    fn rewind(&self, py: Python<'_>, phase: u32) -> PyResult<()> {
        with(py, || {
            let to = Position::of_phase(self.attempt().unwrap_or(0), phase, 0);
            self.journal
                .append(lease::now(), Position::of_attempt(to.attempt), Entry::Rewound { to })
                .map(drop)
        })
    }

    /// Lets the run go: another process may take it up.
    fn release(&self) {
        self.journal.release();
    }
}

/// Does something with the store while other threads go on.
fn with<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| errors::to_exception(py, &error))
}

#[pymethods]
impl PyStore {
    /// Opens the store at `path`; `None` is the user's own.
    #[new]
    #[pyo3(signature = (path = None))]
    fn new(py: Python<'_>, path: Option<PathBuf>) -> PyResult<Self> {
        let env = routing::process_env();
        let path = match path {
            None => place::default_path(&*env),
            Some(path) => place::expand(&path.to_string_lossy(), &*env),
        };
        let path = path.map_err(|error| errors::to_exception(py, &error))?;
        with(py, || Store::open(&path)).map(Self)
    }

    /// Its file.
    #[getter]
    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The version of its tables.
    #[getter]
    fn schema(&self) -> usize {
        self.0.schema()
    }

    /// The network file system it is on, if it is.
    #[getter]
    fn network(&self) -> Option<&'static str> {
        self.0.network()
    }

    /// Takes a run over for this process; awaited, it gives the run's journal. With `rewind`, a step whose failure ended it is done anew.
    #[pyo3(signature = (run_id, about, work_dir, *, parent = None, root = None, guards = false, rewind = false))]
    #[allow(clippy::too_many_arguments)]
    fn begin(
        &self,
        run_id: String,
        about: &Bound<'_, PyDict>,
        work_dir: String,
        parent: Option<String>,
        root: Option<String>,
        guards: bool,
        rewind: bool,
    ) -> PyResult<Awaitable> {
        let root = root.unwrap_or_else(|| run_id.clone());
        let about = super::snapshot::encode(about)?;
        let claim = Claim { id: run_id, parent, root, about, work_dir, guards, known: rewind };
        let store = self.0.clone();
        let take = async move {
            if Path::new(&claim.work_dir).canonicalize().is_ok_and(|dir| store.path().starts_with(dir)) {
                return Err(Error::WorkDir(format!(
                    "the store {} lies in the work directory {}, where code that models write could change it: \
                     choose another work_dir or another store",
                    store.path().display(),
                    claim.work_dir
                )));
            }
            let journal = Arc::new(store.take(claim).await?);
            if rewind {
                let rewound = journal.clone();
                let rewound = move || executor::rewind(&*rewound, lease::now(), phases::is_built_in);
                let done = tokio::task::spawn_blocking(rewound).await;
                done.map_err(|error| Error::Journal(format!("the rewinding broke off: {error}")))??;
            }
            Ok(journal)
        };
        Ok(Awaitable::new(Bridge::default(), Control::default(), async move {
            let taken = take.await;
            Python::attach(|py| match taken {
                Ok(journal) => Ok(PyJournal { journal }.into_pyobject(py)?.into_any().unbind()),
                Err(error) => Err(errors::to_exception(py, &error)),
            })
        }))
    }

    /// The runs that are meant (fields of `Wanted`), the newest first, a dict each.
    fn runs<'py>(&self, py: Python<'py>, wanted: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let wanted: Wanted = pythonize::depythonize(wanted)?;
        let rows = with(py, || self.0.runs(&wanted))?;
        convert::to_python(py, &json!(rows))
    }

    /// How many runs are meant, on all pages together.
    fn count_runs(&self, py: Python<'_>, wanted: &Bound<'_, PyDict>) -> PyResult<u64> {
        let wanted: Wanted = pythonize::depythonize(wanted)?;
        with(py, || self.0.count_runs(&wanted))
    }

    /// What the runs come to that no phase of another run made, a dict for each status.
    fn tally<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let rows = with(py, || self.0.tally())?;
        convert::to_python(py, &json!(rows))
    }

    /// A run, or `None`.
    fn run<'py>(&self, py: Python<'py>, run_id: &str) -> PyResult<Bound<'py, PyAny>> {
        let row = with(py, || self.0.run(run_id))?;
        convert::to_python(py, &json!(row))
    }

    /// What was said of a run at its begin, with values as they were, and the paths of those that were not kept.
    fn about<'py>(&self, py: Python<'py>, run_id: &str) -> PyResult<(Bound<'py, PyAny>, Vec<String>)> {
        let row = with(py, || self.0.run(run_id))?;
        super::snapshot::decode(py, &row.map(|row| row.about).unwrap_or_default())
    }

    /// The records of a run from number `start` on, a dict each.
    #[pyo3(signature = (run_id, start = 1))]
    fn records<'py>(&self, py: Python<'py>, run_id: &str, start: u64) -> PyResult<Bound<'py, PyAny>> {
        let records = with(py, || self.0.records(run_id, start))?;
        convert::to_python(py, &json!(records))
    }

    /// The events of a run from number `start` on, at most `most` of them, a record each.
    #[pyo3(signature = (run_id, start = 1, most = None))]
    fn events<'py>(
        &self,
        py: Python<'py>,
        run_id: &str,
        start: u64,
        most: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let records = with(py, || self.0.events(run_id, start, most.unwrap_or(usize::MAX)))?;
        convert::to_python(py, &json!(records))
    }

    /// The newest version of every workflow that is kept, a dict each.
    fn workflows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let rows = with(py, || self.0.workflows())?;
        convert::to_python(py, &json!(rows))
    }

    /// All versions of a workflow, the newest first, a dict each.
    fn workflow_versions<'py>(&self, py: Python<'py>, workflow_id: &str) -> PyResult<Bound<'py, PyAny>> {
        let rows = with(py, || self.0.workflow_versions(workflow_id))?;
        convert::to_python(py, &json!(rows))
    }

    /// Keeps a new version of a workflow, unless there is a newer one than `before`.
    fn keep_workflow(&self, py: Python<'_>, workflow_id: &str, before: u32, body: &str) -> PyResult<bool> {
        with(py, || self.0.keep_workflow(workflow_id, before, body))
    }

    /// Deletes all versions of a workflow, unless there is a newer one than `before`.
    fn drop_workflow(&self, py: Python<'_>, workflow_id: &str, before: u32) -> PyResult<bool> {
        with(py, || self.0.drop_workflow(workflow_id, before))
    }

    /// Demands `stop`, `cancel`, `pause` or `resume` of a run that some process runs.
    fn demand(&self, py: Python<'_>, run_id: &str, demand: &str) -> PyResult<()> {
        let demand: Demand = serde_json::from_value(Value::String(demand.into())).map_err(|_| {
            let words = format!("{demand:?} is no demand: stop, cancel, pause, resume");
            errors::to_exception(py, &Error::Configuration(words))
        })?;
        with(py, || self.0.demand(run_id, demand))
    }

    /// The questions of a run, a dict each.
    fn questions<'py>(&self, py: Python<'py>, run_id: &str) -> PyResult<Bound<'py, PyAny>> {
        let rows = with(py, || self.0.questions(run_id))?;
        convert::to_python(py, &json!(rows))
    }

    /// Answers a question of a run.
    #[pyo3(signature = (run_id, question, resolution, user_feedback = None, modifications = None))]
    fn answer(
        &self,
        py: Python<'_>,
        run_id: &str,
        question: &str,
        resolution: String,
        user_feedback: Option<String>,
        modifications: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let modifications = modifications.map(convert::to_json);
        let answer = crate::engine::Answer::Given { resolution, user_feedback, modifications };
        with(py, || self.0.answer(run_id, question, &json!(answer)))
    }

    /// Deletes a run that no process runs.
    fn delete(&self, py: Python<'_>, run_id: &str) -> PyResult<()> {
        with(py, || self.0.delete(run_id))
    }

    /// Takes a run of another store in: it and its records as JSON.
    fn take_in(&self, py: Python<'_>, run: &str, records: Vec<String>) -> PyResult<()> {
        with(py, || {
            let (run, records) = Taken::read(run, &records)?;
            self.0.take_in(&run, records)
        })
    }

    /// Gives the disk back what deleted runs took.
    fn shrink(&self, py: Python<'_>) -> PyResult<()> {
        with(py, || self.0.shrink())
    }
}
