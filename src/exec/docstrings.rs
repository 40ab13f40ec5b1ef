//! Installed documentation of the functions in a traceback, for the engineer's next try.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::sandbox::Sandbox;
use super::{ExecError, Runner, Script};
use crate::pattern::pattern;

const READER: &str = include_str!("docstrings.py");
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
    let path = directory.join("docstrings.py");
    let text = format!("FRAMES = {}\n{READER}", json!(frames));
    let written = std::fs::write(&path, text);
    written.map_err(|e| ExecError::Io(format!("{} cannot be written: {e}", path.display())))?;
    let script = Script {
        path,
        cwd: directory.to_path_buf(),
        python_path: Vec::new(),
        timeout_seconds: Some(SECONDS),
        env_passthrough: Vec::new(),
        log_path: directory.join("docstrings.log"),
        sandbox: Sandbox::default(),
    };
    let execution = runner.run(&script, &|_| {}, cancel).await?;
    Ok(if execution.exit.success() { execution.output.trim().to_owned() } else { String::new() })
}
