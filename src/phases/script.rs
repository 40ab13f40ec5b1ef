//! A script in a phase's directory: written, run, and what it left there.

use std::path::Path;

use serde_json::{Value, json};

use super::config::{self, Params};
use super::reports;
use super::workspace::Workspace;
use crate::agents::{diagnosis, extract};
use crate::engine::Run;
use crate::error::Result;
use crate::exec::{Execution, Script, confine};

/// Where and for whom scripts are run.
pub(super) struct Bench<'a> {
    pub(super) space: &'a Workspace,
    pub(super) params: &'a Params,
    /// The agent whose script it is, for events.
    pub(super) agent: &'a str,
}

/// A script that was run.
pub(super) struct Ran {
    pub(super) execution: Execution,
    /// What it wrote or changed, relative to the phase's directory.
    pub(super) files: Vec<String>,
    /// Its log, likewise.
    pub(super) log: String,
}

impl Bench<'_> {
    /// Writes `code` to `file` (relative, as [`confine::place`] gave it) and runs it; `about` goes into
    /// the event that tells of it.
    pub(super) async fn run(&self, run: &Run, file: &str, code: &str, mut about: Value) -> Result<Ran> {
        let root = &self.space.root;
        let text = format!("# filename: {file}\n{code}");
        let path = confine::write(root, Path::new(file), &text)?;
        self.space.record([path.clone()])?;
        let log = self.space.directory("logs")?.join(format!("{}.log", run.label()));
        let script = Script {
            path,
            cwd: root.clone(),
            python_path: vec![root.join("codebase")],
            timeout_seconds: self.params.script_timeout_seconds,
            env_passthrough: self.params.env_passthrough.clone(),
            log_path: log.clone(),
            sandbox: self.params.sandbox(&self.space.work_dir),
        };
        self.space.directory("data")?;
        let before = self.space.look(run, "files before the script", Workspace::inventory).await?;
        (about["file"], about["code"]) = (json!(file), json!(code));
        let execution = run.execute(self.agent, &script, about).await?;
        let changed = move |space: &Workspace| {
            let touched = space.restore()?;
            let now = space.inventory()?;
            let changed = now.changed_since(&before).into_iter().map(|file| file.path.clone());
            // The log is ours, not the script's.
            let paths = changed.filter(|path| !path.starts_with("logs/")).collect();
            Ok((paths, now.incomplete, touched))
        };
        let (files, unseen, touched): (Vec<String>, Vec<String>, bool) =
            self.space.look(run, "files that a script wrote", changed).await?;
        if touched {
            let message =
                format!("{file} changed or removed the record of the run's files; it was written anew");
            run.tell(self.agent, "warning", json!({"message": message})).await?;
        }
        if !unseen.is_empty() {
            let message = format!(
                "not all files of the working directory can be listed as products: {}",
                unseen.join("; ")
            );
            run.tell(self.agent, "warning", json!({"message": message})).await?;
        }
        // At once: a run that breaks off here leaves no product that a later one takes for the user's.
        let sandbox = reports::sandbox(run, &self.space.directory("logs")?)?;
        let ours = [log.clone()].into_iter().chain(sandbox);
        self.space.record(files.iter().map(|file| root.join(file)).chain(ours))?;
        let about = json!({
            "file": file, "success": execution.exit.success(), "exit": diagnosis::ended(&execution.exit),
            "seconds": execution.seconds, "output": execution.output, "code": code, "log_path": log,
            "files": files.iter().map(|file| root.join(file)).collect::<Vec<_>>(),
        });
        run.tell(self.agent, "script_finished", about).await?;
        Ok(Ran { execution, files, log: format!("logs/{}", log.file_name().unwrap_or_default().display()) })
    }
}

/// Runs a script for a phase of a user, in `below` of the work directory.
///
/// Gives `success`, `exit` (in words), `output`, `seconds`, `file`, `files` and `log_path`, paths
/// absolute. A script that does not compile is not run: `output` then says why.
pub async fn perform(
    run: &Run,
    work_dir: &str,
    below: &str,
    config: Value,
    code: &str,
    filename: Option<&str>,
    timeout_seconds: Option<f64>,
) -> Result<Value> {
    let mut params = config::params(config)?;
    params.script_timeout_seconds = timeout_seconds.or(params.script_timeout_seconds);
    let space = Workspace::open(run, work_dir, below, false).await?;
    let taken: Vec<_> = space.foreign().map(Into::into).collect();
    let fallback = format!("script{}.py", run.again());
    let file = confine::place(&space.root, filename, &fallback, &taken)?.to_string_lossy().into_owned();
    let dedented = extract::dedent(code);
    let check = run.check(&dedented, &file).await?;
    if let Some(error) = check.error {
        return Ok(json!({
            "success": false, "exit": "it does not compile", "output": error, "seconds": 0.0,
            "file": space.root.join(&file), "files": [], "log_path": null,
        }));
    }
    let bench = Bench { space: &space, params: &params, agent: "" };
    let Ran { execution, files, log } =
        bench.run(run, &file, &dedented, json!({"attempt": 1, "attempts": 1})).await?;
    let absolute = |name: &String| space.root.join(name);
    Ok(json!({
        "success": execution.exit.success(), "exit": diagnosis::ended(&execution.exit),
        "output": execution.output, "seconds": execution.seconds, "file": absolute(&file),
        "files": files.iter().map(absolute).collect::<Vec<_>>(), "log_path": absolute(&log),
    }))
}
