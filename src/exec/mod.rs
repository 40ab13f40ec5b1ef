//! Running code that models wrote.
//!
//! * [`install`] — a missing package, for the scripts of one run.
//! * [`confine`] — where a script may be written, and writing it there.
//! * [`docstrings`] — installed documentation of the functions in a traceback.
//! * [`environment`] — what a script sees of the host's environment.
//! * [`sandbox`] — what a script may do to the machine, and how that is enforced.
//! * [`supervisor`] — the process that runs scripts and outlives none of them.
//! * [`clean`] — output as prompts quote it.
//! * [`pictures`] — plots as models take them.
//! * [`products`] — the files a script left, and what is in its tables.
//! * [`scripted`] — a runner for tests.

pub mod clean;
pub mod confine;
pub mod docstrings;
pub mod environment;
mod install;
mod link;
mod output;
pub mod pictures;
pub mod products;
pub mod sandbox;
pub mod scripted;
pub mod supervise;
pub mod supervisor;
mod tree;
mod wire;

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use sandbox::{Confinement, Sandbox};

/// The port through which the engine reaches the Python interpreter that runs scripts.
///
/// Implementations: [`supervisor::Supervised`] (a supervised child process) and
/// [`scripted::ScriptedRunner`] (tests).
pub trait Runner: Send + Sync {
    /// Compiles `source` without running it and lists what it defines.
    fn check<'a>(&'a self, source: &'a str, filename: &'a str) -> BoxFuture<'a, Result<Check, ExecError>>;
    /// What can be computed with: Python, packages, cores, memory, GPU, network.
    fn facts(&self) -> BoxFuture<'_, Result<Facts, ExecError>>;
    /// Runs a script; `output` gets its text as it comes. Cancelling kills it and all it started.
    fn run<'a>(
        &'a self,
        script: &'a Script,
        output: &'a (dyn Fn(&str) + Send + Sync),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>>;
    /// Installs a package where only the scripts of this runner find it.
    fn install<'a>(
        &'a self,
        package: &'a Package,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>>;
}

/// A package that a script misses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Package {
    /// The name under which it is installed.
    pub name: String,
    /// Whether it may be built from source, which runs the package's own code.
    pub sources: bool,
    /// What the installation may do to the machine.
    pub sandbox: Sandbox,
}

/// A script that is ready to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// The file, absolute; it lies below `cwd`.
    pub path: PathBuf,
    /// The working directory: the phase's.
    pub cwd: PathBuf,
    /// Directories put on `PYTHONPATH`, absolute.
    pub python_path: Vec<PathBuf>,
    /// Wall-clock limit in seconds; `None` is no limit.
    pub timeout_seconds: Option<f64>,
    /// Names of environment variables passed besides the allow-listed ones.
    pub env_passthrough: Vec<String>,
    /// Where the full output goes, absolute.
    pub log_path: PathBuf,
    /// What it may do to the machine.
    #[serde(default)]
    pub sandbox: Sandbox,
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// The exit state.
    pub exit: Exit,
    /// Standard output and error as they came, interleaved; the middle is cut beyond the cap.
    pub output: String,
    /// Whether `output` was cut; the log file has all up to its own cap.
    pub truncated: bool,
    /// Seconds of wall-clock time.
    pub seconds: f64,
    /// Peak resident memory in bytes, where known.
    pub peak_rss: Option<u64>,
    /// What was enforced on it.
    #[serde(default)]
    pub confinement: Confinement,
}

/// The exit state of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "value")]
pub enum Exit {
    /// It ended by itself with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// Our limit in seconds ended it.
    Timeout(u64),
    /// Another limit ended it; in words, such as `it held more than 20 GB of memory`.
    Limit(String),
    /// The run was stopped.
    Cancelled,
}

impl Exit {
    /// Whether the script ended with status 0.
    pub fn success(&self) -> bool {
        *self == Exit::Code(0)
    }
}

/// What compiling a script told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// The compiler's complaint (also a `SyntaxWarning`), as Python prints it.
    pub error: Option<String>,
    /// The module's docstring.
    pub doc: Option<String>,
    /// Top-level functions and the methods of classes, in order.
    pub functions: Vec<Function>,
}

/// One function of a script.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Function {
    /// Its name and parameters: `f(x, y=1)` or `Class.method(self)`.
    pub signature: String,
    /// Its docstring.
    pub doc: Option<String>,
}

/// The machine as scripts see it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Version of the interpreter, such as `3.11.7`.
    pub python: String,
    /// Relevant installed packages as (name, version), sorted.
    pub packages: Vec<(String, String)>,
    /// Cores that may be used.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Graphics cards by name.
    pub gpus: Vec<String>,
    /// Batch system allocation and time limit, in words.
    pub batch: Option<String>,
}

/// Why a script could not be run at all (a script that fails is an [`Execution`]).
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecError {
    /// The file name leaves the phase's directory, or runs through a link.
    #[error("{0}")]
    Confinement(String),
    /// The supervisor could not be started or was lost.
    #[error("{0}")]
    Supervisor(String),
    /// A file could not be written or read.
    #[error("{0}")]
    Io(String),
    /// The run was stopped.
    #[error("the run was stopped")]
    Cancelled,
}
