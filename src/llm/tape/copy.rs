//! A tape made afterwards, from what the journal of a run holds.

use serde::Deserialize;

use super::home::Home;
use super::request::written;
use super::{Came, Head, Line, Subject};
use crate::llm::ocr::Reading;
use crate::llm::redact::redact;
use crate::llm::{LlmError, Place, Reply, Request};

/// A call as a journal holds it.
#[derive(Debug, Deserialize)]
pub struct Said {
    place: Place,
    request: Request,
    #[serde(flatten)]
    came: Outcome,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Answer(Reply),
    Pages(Reading),
    Failure(LlmError),
}

/// The text of the tape that recording the run would have made.
///
/// # Errors
/// A value cannot be written as JSON.
pub fn copy(subject: &Subject, calls: Vec<Said>) -> serde_json::Result<String> {
    let home = Home::new(&subject.work_dir);
    let mut text = serde_json::to_string(&Head::of(subject))? + "\n";
    for Said { place, request, came } in calls {
        let came = match came {
            Outcome::Answer(reply) => {
                let said = redact(&home.hide(&reply.text), None);
                Came::Reply(Reply { text: said, ..reply })
            }
            Outcome::Pages(reading) => Came::Pages(reading),
            Outcome::Failure(error) => error.into(),
        };
        text += &serde_json::to_string(&Line { place, request: written(&request, &home), came })?;
        text.push('\n');
    }
    Ok(text)
}
