//! The run's door to documents: downloads, and PDFs read by a model.

use std::path::Path;

use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::Run;
use crate::engine::ledger::{Line, Total};
use crate::error::{Error, Result};
use crate::journal::Effect;
use crate::llm::Usage;
use crate::llm::fetch::{self, Bounds, Fetched};
use crate::llm::ocr::Reading;

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
                        Ok(Err(message)) => Err(Error::Download(message)),
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
        self.count_call()?;
        self.hold().await?;
        self.tell(AGENT, "call_started", json!({"model": model, "prompt_characters": 0})).await?;
        let input = json!(["read_pdf", path, model]);
        let sent = json!({"agent": AGENT, "model": model, "bound": null, "request": &input});
        let (reading, seconds): (Reading, f64) = self
            .pass(Effect::Call, &input, sent, |control| async move {
                let started = self.clock().now();
                let reading = tokio::select! {
                    biased;
                    () = control.cut() => return Err(control.error()),
                    reading = self.provider().read_pdf(path, model) => reading,
                };
                let reading = reading.map_err(|error| self.model_error(AGENT, error))?;
                Ok((reading, self.clock().now() - started))
            })
            .await?;
        let usage = Usage { cost: reading.cost, ..Usage::default() };
        let line = Line::new(AGENT, model, usage);
        self.ledger().add(line.clone());
        let about = json!({
            "model": model, "seconds": seconds, "usage": Total::of(&[line]).to_json(),
            "text": format!("{} pages of {}", reading.pages.len(), path.display()),
        });
        self.tell(AGENT, "call_finished", about).await?;
        Ok(reading)
    }
}
