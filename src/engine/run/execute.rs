//! Running scripts, and telling what holds for them.

use std::path::Path;
use std::sync::PoisonError;

use serde_json::{Value, json};

use super::Run;
use crate::engine::Control;
use crate::error::{Error, Result};
use crate::exec::sandbox::Confinement;
use crate::exec::{ExecError, Execution, Exit, Package, Script};
use crate::journal::Effect;

impl Run {
    /// Runs a script; its output is told as it comes.
    pub async fn execute(&self, agent: &str, script: &Script, about: Value) -> Result<Execution> {
        self.hold().await?;
        let mut started = about;
        started["limit_seconds"] = json!(script.timeout_seconds);
        started["log_path"] = json!(script.log_path);
        self.tell(agent, "script_started", started).await?;
        let input = json!([script, started_hash(&script.path)?]);
        let act = |control: Control| async move {
            let output = |text: &str| self.whisper(agent, "script_output", json!({"text": text}));
            let execution = self.shared.services.runner.run(script, &output, &control.token).await;
            self.ran(&control, execution)
        };
        let execution: Execution = self.pass(Effect::Execute, &input, Value::Null, act).await?;
        self.tell_confinement(agent, &execution.confinement).await?;
        Ok(execution)
    }

    /// Installs a package for the scripts of this run.
    pub async fn install(&self, package: &Package) -> Result<Execution> {
        let runner = self.shared.services.runner.clone();
        let act = |control: Control| async move {
            let execution = runner.install(package, &control.token).await;
            self.ran(&control, execution)
        };
        self.pass(Effect::Execute, &json!(["install", package]), Value::Null, act).await
    }

    fn ran(&self, control: &Control, execution: Result<Execution, ExecError>) -> Result<Execution> {
        let execution = execution.map_err(|error| self.script_error(error))?;
        // A signal to the whole job reaches the script as well as the process that runs it.
        let cut = matches!(execution.exit, Exit::Signal(_)) && control.cancelled();
        if cut || execution.exit == Exit::Cancelled { Err(control.error()) } else { Ok(execution) }
    }

    pub(super) fn script_error(&self, error: ExecError) -> Error {
        match error {
            ExecError::Cancelled => self.control.error(),
            other => other.into(),
        }
    }

    /// What was enforced on the latest script; blank before the first.
    pub fn confinement(&self) -> Confinement {
        self.shared.confinement.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells what holds for scripts, when it is not what held before.
    async fn tell_confinement(&self, agent: &str, now: &Confinement) -> Result<()> {
        {
            let mut before = self.shared.confinement.lock().unwrap_or_else(PoisonError::into_inner);
            if *before == *now {
                return Ok(());
            }
            before.clone_from(now);
        }
        self.tell(agent, "sandbox", json!(now)).await?;
        for message in &now.warnings {
            self.tell(agent, "warning", json!({"message": message})).await?;
        }
        Ok(())
    }
}

fn started_hash(path: &Path) -> Result<String> {
    let code = std::fs::read(path).map_err(|e| {
        Error::MissingFile(format!("the script {} was to be run but cannot be read: {e}", path.display()))
    })?;
    Ok(blake3::hash(&code).to_hex().to_string())
}
