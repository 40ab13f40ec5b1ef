//! The gate that every effect passes.

use std::future::Future;
use std::sync::atomic::Ordering;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::Run;
use crate::engine::{Control, RunStatus, Why};
use crate::error::{Error, Result};
use crate::journal::{Effect, Entry, Position};

impl Run {
    /// Holds while the run is paused, and fails when it was cancelled.
    pub async fn gate(&self) -> Result<()> {
        let (control, listener) = (&self.control, &self.shared.services.listener);
        if control.cancelled() {
            return Err(control.error());
        }
        {
            let _waiting = self.wait();
            listener.pause();
        }
        self.hold().await?;
        if !listener.should_continue() {
            self.shared.control.cancel(Why::Callback);
        }
        if control.cancelled() { Err(control.error()) } else { Ok(()) }
    }

    /// Waits until the run is not paused; the caller's loop goes on. Effects wait here before they
    /// tell that they start.
    pub(super) async fn hold(&self) -> Result<()> {
        while self.control.paused() {
            let _waiting = self.wait();
            if !self.shared.held.swap(true, Ordering::Relaxed) {
                self.mark(RunStatus::Paused)?;
                self.announce("run_paused", json!({}))?;
            }
            self.control.released().await;
        }
        if !self.control.cancelled() && self.shared.held.swap(false, Ordering::Relaxed) {
            self.mark(RunStatus::Running)?;
            self.announce("run_continued", json!({}))?;
        }
        Ok(())
    }

    pub(super) async fn pass<T, F>(
        &self,
        effect: Effect,
        input: &Value,
        about: Value,
        act: impl FnOnce(Control) -> F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T>>,
    {
        let prepare = |position| async move {
            if effect == Effect::Execute {
                self.in_time(position).await?;
            }
            Ok((about, ()))
        };
        self.pass_prepared(effect, input, prepare, |control, ()| act(control)).await
    }

    /// The gate. `prepare` looks at the limits, unless the effect is replayed, and says what is to be
    /// recorded about it and what `act` needs.
    pub(super) async fn pass_prepared<T, P, F>(
        &self,
        effect: Effect,
        input: &Value,
        prepare: impl AsyncFnOnce(Position) -> Result<(Value, P)>,
        act: impl FnOnce(Control, P) -> F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T>>,
    {
        let position = Position { call: self.ordinal.fetch_add(1, Ordering::Relaxed), ..self.position };
        if effect != Effect::Observe {
            self.gate().await?;
        }
        if let Some((recorded, output)) = self.history().finished(&position) {
            if *recorded != effect {
                return Err(self.changed(&format!(
                    "the journal holds a {recorded:?} at {position:?} where a {effect:?} follows now"
                )));
            }
            return serde_json::from_value(output.clone()).map_err(internal);
        }
        let hash = hash(input);
        let before = self.history().cut_short(&position).map(|(_, before)| *before == hash);
        let (about, prepared) = prepare(position).await?;
        if let Some(same) = before {
            self.repeat(effect, same)?;
        }
        let journal = self.journal();
        let clock = self.clock();
        journal.append(clock.now(), position, Entry::Started { effect, input: hash, about })?;
        // After a crash it must be known what may have been paid for, or may still have left files.
        if effect != Effect::Observe {
            journal.commit().await?;
        }
        let act = act(self.control.clone(), prepared);
        let acted = if effect == Effect::Call || effect == Effect::Execute {
            self.before_late(act).await
        } else {
            act.await
        };
        let output = match acted {
            Ok(output) => output,
            Err(error) => {
                if !error.is_ending() {
                    let failed = Entry::Failed { effect, error: error.to_string() };
                    journal.append(clock.now(), position, failed)?;
                }
                return Err(error);
            }
        };
        let recorded = serde_json::to_value(&output).map_err(internal)?;
        journal.append(clock.now(), position, Entry::Finished { effect, output: recorded })?;
        journal.commit().await?;
        Ok(output)
    }

    /// An effect that was cut short acts again: listeners are told, and a difference needs force.
    fn repeat(&self, effect: Effect, same: bool) -> Result<()> {
        if !same && !self.shared.forced {
            return Err(self.changed(&format!(
                "the {effect:?} that was cut short in phase {} at step {}, turn {} differs from the one that \
                 follows now",
                self.phase_type, self.position.step, self.position.turn
            )));
        }
        self.announce("effect_repeated", json!({"effect": effect, "changed": !same}))
    }

    pub(super) fn changed(&self, what: &str) -> Error {
        Error::Journal(format!(
            "run {} cannot go on as it was: {what}. The task, a setting, a template or the package has changed \
             since it was recorded. Resume it with force=True to go on all the same, or begin a new run",
            self.id()
        ))
    }
}

pub(super) fn internal(error: serde_json::Error) -> Error {
    Error::Journal(format!("a record cannot be written or read as JSON: {error}"))
}

fn hash(input: &Value) -> String {
    blake3::hash(input.to_string().as_bytes()).to_hex().to_string()
}
