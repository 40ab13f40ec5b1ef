//! A runner for tests: executions come from a queue, and scripts are recorded.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::sandbox::Confinement;
use super::{Check, ExecError, Execution, Exit, Facts, Package, Runner, Script};

type CheckFn = Box<dyn Fn(&str, &str) -> Check + Send + Sync>;

/// A [`Runner`] that runs nothing.
pub struct ScriptedRunner {
    queue: Mutex<VecDeque<Scripted>>,
    executed: Mutex<Vec<Executed>>,
    installed: Mutex<Vec<Package>>,
    check: CheckFn,
    packages: Vec<(String, String)>,
}

/// What one execution is to do.
#[derive(Debug, Clone)]
pub struct Scripted {
    outcome: Result<Execution, ExecError>,
    files: Vec<(PathBuf, Vec<u8>)>,
    hangs: bool,
}

/// One recorded execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Executed {
    /// What was to be run.
    pub script: Script,
    /// The script's text at that moment.
    pub code: String,
}

impl Scripted {
    /// Ends with this exit state after printing `output`.
    pub fn ending(exit: Exit, output: &str) -> Self {
        let output = output.to_owned();
        let outcome = Ok(Execution {
            exit,
            output,
            truncated: false,
            seconds: 0.25,
            peak_rss: Some(1 << 20),
            confinement: Confinement::default(),
        });
        Self { outcome, files: Vec::new(), hangs: false }
    }

    /// Ends with status 0.
    pub fn success(output: &str) -> Self {
        Self::ending(Exit::Code(0), output)
    }

    /// Ends with status 1.
    pub fn failure(output: &str) -> Self {
        Self::ending(Exit::Code(1), output)
    }

    /// Prints `output`, then runs until it is cancelled.
    pub fn until_cancelled(output: &str) -> Self {
        Self { hangs: true, ..Self::ending(Exit::Cancelled, output) }
    }

    /// Cannot be run.
    pub fn error(error: ExecError) -> Self {
        Self { outcome: Err(error), files: Vec::new(), hangs: false }
    }

    /// Also writes a file, relative to the working directory.
    #[must_use]
    pub fn writing(mut self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), bytes.into()));
        self
    }
}

impl Default for ScriptedRunner {
    fn default() -> Self {
        Self::new([])
    }
}

impl ScriptedRunner {
    /// A runner with these executions in order; every check finds nothing wrong.
    pub fn new(executions: impl IntoIterator<Item = Scripted>) -> Self {
        Self {
            queue: Mutex::new(executions.into_iter().collect()),
            executed: Mutex::default(),
            installed: Mutex::default(),
            check: Box::new(|_, _| Check::default()),
            packages: Vec::new(),
        }
    }

    /// Answers checks with this function of source and file name.
    #[must_use]
    pub fn with_check(mut self, check: impl Fn(&str, &str) -> Check + Send + Sync + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Has a package installed.
    #[must_use]
    pub fn with_package(mut self, name: &str, version: &str) -> Self {
        self.packages.push((name.to_owned(), version.to_owned()));
        self
    }

    /// Adds an execution at the end of the queue.
    pub fn push(&self, execution: Scripted) {
        lock(&self.queue).push_back(execution);
    }

    /// What was executed so far, in order.
    pub fn executed(&self) -> Vec<Executed> {
        lock(&self.executed).clone()
    }

    /// The packages that were to be installed so far, in order; each takes an execution from the queue.
    pub fn installed(&self) -> Vec<Package> {
        lock(&self.installed).clone()
    }

    /// How many executions are still in the queue.
    pub fn left(&self) -> usize {
        lock(&self.queue).len()
    }
}

impl fmt::Debug for ScriptedRunner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ScriptedRunner").field("left", &self.left()).finish_non_exhaustive()
    }
}

impl Runner for ScriptedRunner {
    fn check<'a>(&'a self, source: &'a str, filename: &'a str) -> BoxFuture<'a, Result<Check, ExecError>> {
        Box::pin(async move { Ok((self.check)(source, filename)) })
    }

    fn facts(&self) -> BoxFuture<'_, Result<Facts, ExecError>> {
        let packages = self.packages.clone();
        let facts = Facts { python: "3.11.0".to_owned(), cores: 1, packages, ..Facts::default() };
        Box::pin(async move { Ok(facts) })
    }

    fn run<'a>(
        &'a self,
        script: &'a Script,
        output: &'a (dyn Fn(&str) + Send + Sync),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>> {
        Box::pin(async move {
            if cancel.is_cancelled() {
                return Err(ExecError::Cancelled);
            }
            let code = std::fs::read_to_string(&script.path)
                .map_err(|error| ExecError::Io(format!("{}: {error}", script.path.display())))?;
            lock(&self.executed).push(Executed { script: script.clone(), code });
            let next = lock(&self.queue).pop_front();
            let next = next.ok_or_else(|| {
                ExecError::Supervisor(format!(
                    "the scripted runner has no execution left for {}; queue one more",
                    script.path.display()
                ))
            })?;
            for (path, bytes) in &next.files {
                write(&script.cwd.join(path), bytes)?;
            }
            let execution = next.outcome?;
            write(&script.log_path, execution.output.as_bytes())?;
            if !execution.output.is_empty() {
                output(&execution.output);
            }
            if next.hangs {
                cancel.cancelled().await;
            }
            Ok(execution)
        })
    }

    fn install<'a>(
        &'a self,
        package: &'a Package,
        _cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>> {
        Box::pin(async move {
            lock(&self.installed).push(package.clone());
            let next = lock(&self.queue).pop_front();
            next.unwrap_or_else(|| Scripted::failure("no such package")).outcome
        })
    }
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<(), ExecError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, bytes))
        .map_err(|error| ExecError::Io(format!("{}: {error}", path.display())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn script(folder: &std::path::Path) -> Script {
        let path = folder.join("a.py");
        std::fs::write(&path, "print(1)\n").unwrap();
        Script {
            path,
            cwd: folder.to_owned(),
            python_path: Vec::new(),
            timeout_seconds: None,
            env_passthrough: Vec::new(),
            log_path: folder.join("logs/a.log"),
            sandbox: crate::exec::sandbox::Sandbox::default(),
        }
    }

    #[tokio::test]
    async fn executions_come_in_order_and_scripts_are_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let runner = ScriptedRunner::new([Scripted::success("1\n").writing("data/a.csv", "x\n1\n")]);
        runner.push(Scripted::failure("Traceback"));
        let (script, cancel) = (script(folder.path()), CancellationToken::new());
        let seen = Mutex::new(String::new());
        let output = |text: &str| seen.lock().unwrap().push_str(text);
        assert!(runner.run(&script, &output, &cancel).await.unwrap().exit.success());
        assert_eq!(runner.run(&script, &output, &cancel).await.unwrap().exit, Exit::Code(1));
        assert_eq!(*seen.lock().unwrap(), "1\nTraceback");
        assert_eq!(std::fs::read_to_string(folder.path().join("data/a.csv")).unwrap(), "x\n1\n");
        assert_eq!(runner.executed()[1].code, "print(1)\n");
        let none_left = runner.run(&script, &output, &cancel).await;
        assert!(matches!(none_left, Err(ExecError::Supervisor(_))), "{none_left:?}");
    }

    #[tokio::test]
    async fn a_hanging_execution_ends_when_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let runner = ScriptedRunner::new([Scripted::until_cancelled("begun")]);
        let (script, cancel) = (script(folder.path()), CancellationToken::new());
        let output = |_: &str| cancel.cancel();
        assert_eq!(runner.run(&script, &output, &cancel).await.unwrap().exit, Exit::Cancelled);
    }
}
