//! What a run sees of the world: a replay sees what was seen then.

use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Run, Services};
use crate::error::{Error, Result};
use crate::exec::{Check, Facts, docstrings};
use crate::journal::{Effect, Position};
use crate::library::{Document, Home};

impl Run {
    /// Seconds since 1970, as this run saw them: a replay sees the same.
    pub async fn now(&self) -> Result<f64> {
        let clock = self.shared.services.clock.clone();
        self.observe_here("clock", || Ok(clock.now())).await
    }

    /// The local form of a time for file names.
    pub fn stamp(&self, at: f64) -> String {
        self.shared.services.clock.stamp(at)
    }

    /// Looks at something outside the run, away from the caller's loop; a replay gets what was seen
    /// then.
    pub async fn observe<T, F>(&self, what: &str, look: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let away = |_| async move {
            let looked = tokio::task::spawn_blocking(look).await;
            looked.map_err(|e| Error::Journal(format!("a look outside the run broke off: {e}")))?
        };
        self.pass(Effect::Observe, &json!(what), Value::Null, away).await
    }

    /// The same for a look that belongs to the caller's thread and is quick.
    pub async fn observe_here<T>(&self, what: &str, look: impl FnOnce() -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        self.pass(Effect::Observe, &json!(what), Value::Null, |_| async move { look() }).await
    }

    /// The machine as scripts see it; looked at once a run.
    pub async fn facts(&self) -> Result<Facts> {
        let look = || async {
            let origin = Self {
                position: Position::of_attempt(self.position.attempt),
                ordinal: Arc::default(),
                ..self.clone()
            };
            let runner = self.shared.services.runner.clone();
            let facts = |_| async move { runner.facts().await.map_err(|error| self.script_error(error)) };
            origin.pass(Effect::Observe, &json!("facts"), Value::Null, facts).await
        };
        self.shared.facts.get_or_try_init(look).await.cloned()
    }

    /// Compiles a script without running it.
    pub async fn check(&self, source: &str, filename: &str) -> Result<Check> {
        let runner = self.shared.services.runner.clone();
        let input = json!([source, filename]);
        let check =
            |_| async move { runner.check(source, filename).await.map_err(|error| self.script_error(error)) };
        self.pass(Effect::Observe, &input, Value::Null, check).await
    }

    /// Installed documentation of the library functions that a traceback in `output` names.
    pub async fn docstrings(&self, output: &str, directory: &Path) -> Result<String> {
        let runner = self.shared.services.runner.clone();
        self.pass(Effect::Observe, &json!(["docstrings", output]), Value::Null, |control| async move {
            Ok(docstrings::of_traceback(runner.as_ref(), output, directory, &control.token).await?)
        })
        .await
    }

    /// The documentation of a library: from its site, that of `version` if it is there; else what
    /// the installed package says of itself, read by a script of ours in `directory`.
    pub async fn documentation(
        &self,
        home: &'static Home,
        version: Option<&str>,
        directory: &Path,
    ) -> Result<Document> {
        let Services { documents, runner, clock, .. } = &self.shared.services;
        let input = json!(["documentation", home.library, version]);
        self.pass(Effect::Observe, &input, Value::Null, |control| async move {
            let fetched = tokio::select! {
                biased;
                () = control.cut() => return Err(control.error()),
                fetched = documents.fetch(home, version, clock.now()) => fetched,
            };
            let problem = match fetched {
                Ok(document) => return Ok(document),
                Err(problem) => problem,
            };
            let text = match version {
                Some(_) => {
                    docstrings::of_module(runner.as_ref(), home.library, directory, &control.token).await
                }
                None => Ok(String::new()),
            };
            let text = text.map_err(|error| self.script_error(error))?;
            let source = match version {
                Some(version) if !text.is_empty() => format!("docstrings of the installed version {version}"),
                _ => problem.clone(),
            };
            Ok(Document { source, text, problem: Some(problem) })
        })
        .await
    }
}
