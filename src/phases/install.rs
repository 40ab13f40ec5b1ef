//! A package that a script misses: installed for the run, then the same script again, without a model call.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::config::Install;
use super::hitl_checkpoint::answer;
use super::script::{Bench, Ran};
use crate::agents::diagnosis::{self, Kind, Limits};
use crate::engine::{Answer, Question, Run};
use crate::error::Result;
use crate::exec::{Execution, Package};

/// Seconds a human has to say whether a package may be installed.
const ANSWER_SECONDS: u64 = 3600;

/// Runs the scripts of one step and installs what they miss.
#[derive(Default)]
pub(super) struct Installer {
    /// Whether a human is asked first.
    pub(super) asks: bool,
    /// What was wanted already: nothing is tried twice.
    tried: BTreeSet<String>,
}

impl Installer {
    /// An installer that asks a human first, or does not.
    pub(super) fn new(asks: bool) -> Self {
        Self { asks, tried: BTreeSet::new() }
    }

    /// Runs a script as [`Bench::run`] does, again after each package it missed that could be installed.
    /// Also gives why the last one that it missed could not be.
    pub(super) async fn run(
        &mut self,
        bench: &Bench<'_>,
        run: &Run,
        file: &str,
        code: &str,
        about: Value,
    ) -> Result<(Ran, Option<String>)> {
        loop {
            let ran = bench.run(run, file, code, about.clone()).await?;
            let Some((module, package)) = missing(&ran.execution) else { return Ok((ran, None)) };
            if bench.params.allow_install == Install::Never || !self.tried.insert(package.clone()) {
                return Ok((ran, None));
            }
            if let Some(why) = self.provide(bench, run, &module, package).await? {
                return Ok((ran, Some(why)));
            }
        }
    }

    /// Installs a package; gives why not, when it could not be.
    async fn provide(
        &self,
        bench: &Bench<'_>,
        run: &Run,
        module: &str,
        package: String,
    ) -> Result<Option<String>> {
        if self.asks && !allowed(run, module, &package).await? {
            return Ok(Some(format!("A human did not want {package} to be installed.")));
        }
        run.tell(bench.agent, "install_started", json!({"package": package, "module": module})).await?;
        let wanted = Package {
            name: package.clone(),
            sources: bench.params.allow_install == Install::Sources,
            sandbox: bench.params.sandbox(&bench.space.work_dir),
        };
        let execution = run.install(&wanted).await?;
        let success = execution.exit.success();
        let output = execution.output.trim();
        let about = json!({
            "package": package, "module": module, "success": success, "seconds": execution.seconds,
            "output": output,
        });
        run.tell(bench.agent, "install_finished", about).await?;
        if success {
            return Ok(None);
        }
        let last = output.lines().rev().find(|line| !line.trim().is_empty() && !line.contains("notice"));
        let why = last.map_or_else(|| diagnosis::ended(&execution.exit), |line| line.trim().to_owned());
        Ok(Some(format!("It could not be installed: {why}")))
    }
}

/// The module that a script did not find, and the package that provides it. Modules of the run's own
/// scripts and parts of packages that are there are none.
fn missing(execution: &Execution) -> Option<(String, String)> {
    if execution.exit.success() {
        return None;
    }
    let told = diagnosis::diagnose(&execution.exit, &execution.output, &Limits::default());
    let Kind::MissingModule { module, package } = told.kind else { return None };
    let plain = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.chars().all(|part| part.is_ascii_alphanumeric() || matches!(part, '-' | '_'))
    };
    let own = module.starts_with("step_") || module == "codebase";
    (plain(&module) && plain(&package) && !own).then_some((module, package))
}

async fn allowed(run: &Run, module: &str, package: &str) -> Result<bool> {
    let question = Question {
        run_id: String::new(),
        step_id: format!("install_{package}"),
        checkpoint_type: "before_install".into(),
        context_snapshot: json!({"module": module, "package": package}),
        message: format!(
            "The script needs the module {module}. Install the package {package} for this run, in a directory of \
             its own?"
        ),
        options: vec!["approve".into(), "reject".into()],
        timeout_seconds: ANSWER_SECONDS,
    };
    let given = answer(run, question).await?;
    Ok(matches!(given, Answer::Given { resolution, .. } if resolution == "approve"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Exit;

    fn wanted(exit: Exit, name: &str) -> Option<(String, String)> {
        let output = format!(
            "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nModuleNotFoundError: No \
             module named '{name}'\n"
        );
        let execution = Execution {
            exit,
            output,
            truncated: false,
            seconds: 0.0,
            peak_rss: None,
            confinement: crate::exec::sandbox::Confinement::default(),
        };
        missing(&execution)
    }

    #[test]
    fn only_packages_that_are_missing_as_a_whole_are_installed() {
        let pair = |module: &str, package: &str| Some((module.to_owned(), package.to_owned()));
        assert_eq!(wanted(Exit::Code(1), "emcee"), pair("emcee", "emcee"));
        assert_eq!(wanted(Exit::Code(1), "sklearn"), pair("sklearn", "scikit-learn"));
        for name in ["numpy.nothing", "step_1", "codebase", "--index-url", "a b", "../x"] {
            assert_eq!(wanted(Exit::Code(1), name), None, "{name}");
        }
        assert_eq!(wanted(Exit::Code(0), "emcee"), None);
    }
}
