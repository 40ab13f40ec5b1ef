//! Installed documentation: of the functions in a traceback, and of a whole package.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::sandbox::Sandbox;
use super::{ExecError, Runner, Script};
use crate::pattern::pattern;

const READER: &str = include_str!("docstrings.py");
const MODULE_READER: &str = include_str!("module_docs.py");
/// Importing a large library takes seconds; more than that is not worth a prompt.
const SECONDS: f64 = 60.0;

static FRAME: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?m)^\s*File "([^"]+)", line \d+, in (\S+)"#));

/// Signatures and docstrings of the library functions that `output`'s traceback names; blank when
/// it names none. They are read by a script of ours in `directory`, where the libraries are.
pub async fn of_traceback(
    runner: &dyn Runner,
    output: &str,
    directory: &Path,
    cancel: &CancellationToken,
) -> Result<String, ExecError> {
    let frames: Vec<[&str; 2]> = FRAME
        .captures_iter(output)
        .filter_map(|c| Some([c.get(1)?.as_str(), c.get(2)?.as_str()]))
        .filter(|[path, _]| path.contains("-packages/"))
        .collect();
    if frames.is_empty() {
        return Ok(String::new());
    }
    run(runner, &format!("FRAMES = {}\n{READER}", json!(frames)), "docstrings", directory, cancel).await
}

/// Signatures and docstrings of the functions and classes of an installed package; blank when it
/// cannot be imported.
pub async fn of_module(
    runner: &dyn Runner,
    module: &str,
    directory: &Path,
    cancel: &CancellationToken,
) -> Result<String, ExecError> {
    run(runner, &format!("MODULE = {}\n{MODULE_READER}", json!(module)), "module_docs", directory, cancel)
        .await
}

/// What a script of ours prints; blank when it fails.
async fn run(
    runner: &dyn Runner,
    code: &str,
    name: &str,
    directory: &Path,
    cancel: &CancellationToken,
) -> Result<String, ExecError> {
    let path = directory.join(format!("{name}.py"));
    let written = std::fs::write(&path, code);
    written.map_err(|e| ExecError::Io(format!("{} cannot be written: {e}", path.display())))?;
    let script = Script {
        path,
        cwd: directory.to_path_buf(),
        python_path: Vec::new(),
        timeout_seconds: Some(SECONDS),
        env_passthrough: Vec::new(),
        log_path: directory.join(format!("{name}.log")),
        sandbox: Sandbox::default(),
    };
    let execution = runner.run(&script, &|_| {}, cancel).await?;
    Ok(if execution.exit.success() { execution.output.trim().to_owned() } else { String::new() })
}
