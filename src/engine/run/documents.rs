//! The run's door to documents: downloads, and PDFs read by a model.

use std::path::Path;

use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::Run;
use super::call::Called;
use super::watch::CallWatch;
use crate::engine::Control;
use crate::engine::ledger::Total;
use crate::error::{Error, Result};
use crate::journal::Effect;
use crate::llm::fetch::{self, Bounds, Fetched};
use crate::llm::ocr::{Paper, Reading};

impl Run {
    /// Gets a document into a file; a replay finds it there.
    pub async fn download(&self, url: &str, target: &Path, bounds: Bounds) -> Result<Fetched> {
        self.gate().await?;
        let input = json!(["download", url, target]);
        let fetched: Fetched = self
            .pass(Effect::Observe, &input, Value::Null, |control| async move {
                let (url, path) = (url.to_owned(), target.to_owned());
                let work = tokio::spawn(async move { fetch::fetch(&url, &path, bounds).await });
                tokio::select! {
                    biased;
                    () = control.cut() => Err(control.error()),
                    done = AbortOnDropHandle::new(work) => match done {
                        Ok(Ok(fetched)) => Ok(fetched),
                        Ok(Err(missed)) => Err(Error::Download(missed.message)),
                        Err(error) => Err(Error::Download(format!("the download broke off: {error}"))),
                    },
                }
            })
            .await?;
        if !target.exists() {
            return Err(Error::MissingFile(format!(
                "{} was downloaded earlier in this run and is gone; put it back, or start a new run",
                target.display()
            )));
        }
        let about = json!({"path": target, "what": "download"});
        self.tell("", "file_written", about).await?;
        Ok(fetched)
    }

    /// Has a model read a PDF, as the agent `ocr`; its pages are billed like a call.
    pub async fn read_pdf(&self, path: &Path, model: &str) -> Result<Reading> {
        const AGENT: &str = "ocr";
        let place = self.next_reading(AGENT);
        self.count_call()?;
        self.hold().await?;
        self.tell(AGENT, "call_started", json!({"model": model, "prompt_characters": 0})).await?;
        let input = json!(["read_pdf", path, model]);
        let prepare = async |position| {
            let held = self.admit_reading(position, AGENT, model).await?;
            let paper = Paper::new(path, model, place).await;
            let about = json!({
                "agent": AGENT, "model": model, "bound": null, "request": &paper.request, "place": &paper.place,
            });
            Ok((about, (paper, held)))
        };
        let act = |control: Control, (paper, held)| async move {
            let started = self.clock().now();
            let watch = CallWatch::new(self, AGENT, model);
            let reading = tokio::select! {
                biased;
                () = control.cut() => return Err(control.error()),
                reading = self.provider().read_pdf(&paper, &watch) => reading,
            };
            let (differences, seconds) = (watch.differences(), self.clock().now() - started);
            match reading {
                Ok(reading) => Ok(Called::reading(reading, model, seconds, differences, held)),
                Err(error) => {
                    self.warn_of(AGENT, differences).await?;
                    Err(self.model_error(AGENT, error))
                }
            }
        };
        let called: Called = self.pass_prepared(Effect::Call, &input, prepare, act).await?;
        let line = called.line(AGENT);
        let usage = Total::of(&line).to_json();
        if let Some(line) = line {
            self.charge(line);
        }
        let (reading, seconds, differences) = called
            .into_reading()
            .ok_or_else(|| self.changed("a model was called where a document is read now"))?;
        self.warn_of(AGENT, differences).await?;
        let about = json!({
            "model": model, "seconds": seconds, "usage": usage,
            "text": format!("{} pages of {}", reading.pages.len(), path.display()),
        });
        self.tell(AGENT, "call_finished", about).await?;
        Ok(reading)
    }
}
