//! Puts a run's ports together: models, interpreter, humans, watchers, clock, journal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::{intern, prelude::*};

use super::approvals::PyApprovals;
use super::bridge::Bridge;
use super::convert;
use super::keys::PyKeys;
use super::listener::PyListener;
use crate::agents::prompts::Templates;
use crate::engine::clock::SystemClock;
use crate::engine::run::Services;
use crate::exec::{Check, Facts, sandbox, supervise, supervisor::Supervised};
use crate::journal::Journal;
use crate::library::WebDocuments;
use crate::llm::http::HttpProvider;
use crate::llm::pricing::Prices;
use crate::llm::routing;

/// Enough threads that one that waits for the interpreter holds nobody up.
const WORKERS: usize = 4;

/// Starts tokio once a process.
fn start_runtime() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(WORKERS).thread_name("cmbagent").enable_all();
        pyo3_async_runtimes::tokio::init(builder);
    });
}

/// The ports of a run that is awaited in Python.
pub(super) fn build(
    py: Python<'_>,
    bridge: &Bridge,
    api_keys: Py<PyAny>,
    approval_manager: Option<Py<PyAny>>,
    listener: Py<PyAny>,
    journal: Arc<dyn Journal>,
) -> PyResult<Services> {
    start_runtime();
    let environment = routing::process_env();
    let keys = Arc::new(PyKeys(api_keys));
    Ok(Services {
        documents: Arc::new(WebDocuments::new(environment.clone())),
        provider: Arc::new(HttpProvider::new(keys, environment, Arc::new(prices()?))),
        runner: Arc::new(runner(py)?.recorded_in(journal.file())),
        approvals: Arc::new(PyApprovals { manager: approval_manager, bridge: bridge.clone() }),
        listener: Arc::new(PyListener { listener, bridge: bridge.clone() }),
        clock: Arc::new(SystemClock),
        journal,
    })
}

/// What models cost, as the user knows it.
pub(super) fn prices() -> PyResult<Prices> {
    Prices::load(&*routing::process_env()).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// What runs scripts.
pub(super) fn runner(py: Python<'_>) -> PyResult<Supervised> {
    Ok(Supervised::new(supervisor_command(py)?))
}

/// Loads the compiled module by its path: the supervisor imports nothing else, whatever the
/// directory it starts in or the user's site directory holds.
const SUPERVISOR: &str = "import importlib.util as u, sys
s = u.spec_from_file_location('cmbagent._core', sys.argv[1])
m = u.module_from_spec(s)
s.loader.exec_module(m)
sys.exit(m.supervise(sys.argv[2]))";

fn supervisor_command(py: Python<'_>) -> PyResult<Vec<OsString>> {
    let executable: Option<OsString> =
        py.import(intern!(py, "sys"))?.getattr(intern!(py, "executable"))?.extract()?;
    let executable = executable.filter(|path| !path.is_empty()).ok_or_else(|| {
        PyRuntimeError::new_err(
            "sys.executable is empty, so scripts cannot be run: set it to the path of a Python interpreter",
        )
    })?;
    let module: OsString = py.import(intern!(py, "cmbagent._core"))?.getattr("__file__")?.extract()?;
    let helper: OsString = py.import(intern!(py, "cmbagent"))?.getattr("__file__")?.extract()?;
    let helper = PathBuf::from(helper).with_file_name("_supervisor.py");
    Ok(vec![executable, "-I".into(), "-c".into(), SUPERVISOR.into(), module, helper.into()])
}

/// The main of the process that supervises scripts; `helper` is the path of `_supervisor.py`.
///
/// Returns its exit status when its standard input closes.
#[pyfunction]
#[pyo3(name = "supervise")]
pub(super) fn supervise_scripts(py: Python<'_>, helper: PathBuf) -> i32 {
    // Compiling and looking around is Python's work; it is imported when first asked for.
    let call = move |function: &str, arguments: &[&str]| -> PyResult<String> {
        Python::attach(|py| {
            let util = py.import("importlib.util")?;
            let spec =
                util.call_method1("spec_from_file_location", ("cmbagent._supervisor", helper.as_path()))?;
            let modules = py.import("sys")?.getattr("modules")?;
            let module = if let Ok(module) = modules.get_item("cmbagent._supervisor") {
                module
            } else {
                let module = util.call_method1("module_from_spec", (&spec,))?;
                spec.getattr("loader")?.call_method1("exec_module", (&module,))?;
                modules.set_item("cmbagent._supervisor", &module)?;
                module
            };
            let arguments = pyo3::types::PyTuple::new(py, arguments)?;
            module.getattr(function)?.call1(arguments)?.extract()
        })
    };
    let ask = move |function: &str, arguments: &[&str]| {
        call(function, arguments).map_err(|error| error.to_string())
    };
    let check = |source: &str, filename: &str| read::<Check>(&ask("check", &[source, filename])?);
    let facts = || read::<Facts>(&ask("facts", &[])?);
    let raise_loopback = || ask("raise_loopback", &[]).map(drop);
    py.detach(|| supervise::supervise(check, facts, raise_loopback))
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The provider a model's name leads to: `openai`, `anthropic` or `gemini`.
#[pyfunction]
pub(super) fn route(model: &str) -> &'static str {
    routing::Wire::of_model(model).name()
}

/// What this machine enforces on scripts in the default mode of the sandbox.
#[pyfunction]
#[pyo3(name = "sandbox")]
pub(super) fn sandbox_here(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let told = py.detach(sandbox::here).map_err(PyRuntimeError::new_err)?;
    convert::to_python(py, &serde_json::json!(told))
}

/// `text` without anything that looks like a key.
#[pyfunction]
pub(super) fn redact(text: &str) -> String {
    crate::llm::redact::redact(text, None)
}

/// The agents with the hashes (BLAKE3) of their built-in prompt templates.
#[pyfunction]
pub(super) fn prompt_hashes() -> PyResult<BTreeMap<String, String>> {
    let templates = Templates::builtin().map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    Ok(templates.hashes().clone())
}
