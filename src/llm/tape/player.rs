//! Answers from a tape: no model, no key, no network.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::differ::diff;
use super::home::Home;
use super::request::{shown, written};
use super::{Came, Failure, Head, Line, Subject, Tape, TapeError, tape_error};
use crate::llm::ocr::{Paper, Reading};
use crate::llm::{
    Call, CallOptions, LlmError, LlmErrorKind, Place, Provider, Quote, Reply, Request, Usage, Watch,
};

/// A provider that answers each call as it was answered at the same place of the recorded run.
///
/// An answer's tokens are the recorded ones and its cost is nothing, since nothing is billed.
#[derive(Clone)]
pub struct Player {
    reel: Arc<Reel>,
    /// Where the run is in the replayed one; empty for that run itself.
    inside: String,
}

struct Reel {
    path: PathBuf,
    tape: Tape,
    home: Home,
    strict: bool,
    /// The last execution that was recorded; further ones replay it.
    last_attempt: u32,
    /// Told with the first call.
    foreign: Mutex<Option<String>>,
    /// Knows what the models take, and is never called.
    models: Arc<dyn Provider>,
}

impl Player {
    /// Reads the tape at `path` for the run `subject`. With `strict` every difference is an error, else it is told.
    ///
    /// `models` is asked for nothing but [`Provider::window`] and [`Provider::vision`].
    ///
    /// Fails when there is no tape, when it cannot be read, and with `strict` when another workflow or task was
    /// recorded.
    pub fn open(
        path: &Path,
        models: Arc<dyn Provider>,
        subject: &Subject,
        strict: bool,
    ) -> Result<Self, TapeError> {
        let tape = Tape::read(path)?;
        let foreign = foreign(path, &tape.head, &Head::of(subject));
        if let (true, Some(what)) = (strict, &foreign) {
            return Err(TapeError::Unusable(format!("{what}; strict=True allows no difference")));
        }
        let last_attempt = tape.calls.keys().map(|place| place.attempt).max().unwrap_or(0);
        let home = Home::new(&subject.work_dir);
        let foreign = Mutex::new(foreign);
        let reel = Reel { path: path.to_owned(), tape, home, strict, last_attempt, foreign, models };
        Ok(Self { reel: Arc::new(reel), inside: String::new() })
    }

    fn answer(&self, call: &Call, watch: &dyn Watch) -> Result<Reply, LlmError> {
        let model = &call.request.model;
        if call.cancel.is_cancelled() {
            let message = format!("the call of {} was cancelled", call.agent);
            return Err(LlmError { kind: LlmErrorKind::Cancelled, ..tape_error(message, model) });
        }
        let Came::Reply(reply) = self.find(&call.place, &call.request, watch)? else {
            return Err(self.other("a document that was read", &call.place, model));
        };
        let text = self.reel.home.show(&reply.text);
        watch.text(&text);
        let usage = Usage { cost: Some(0.0), ..reply.usage };
        Ok(Reply { text, usage, ..reply })
    }

    fn reading(&self, paper: &Paper, watch: &dyn Watch) -> Result<Reading, LlmError> {
        let Paper { request, place, .. } = paper;
        let Came::Pages(reading) = self.find(place, request, watch)? else {
            return Err(self.other("a call", place, &request.model));
        };
        Ok(Reading { cost: Some(0.0), ..reading })
    }

    /// What came of what was asked at `place`; a recorded error is one again.
    fn find(&self, place: &Place, request: &Request, watch: &dyn Watch) -> Result<Came, LlmError> {
        let Reel { tape, last_attempt, foreign, .. } = self.reel.as_ref();
        if let Some(what) = foreign.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watch.differs(&what, "");
        }
        let mut there = place.within(&self.inside);
        there.attempt = there.attempt.min(*last_attempt);
        let Some(line) = tape.calls.get(&there) else {
            return Err(tape_error(self.lacks(&there), &request.model));
        };
        self.compare(place, request, line, watch)?;
        match line.came.clone() {
            Came::Error(Failure { kind, message, status, model }) => {
                let message = format!("{message} (so it was recorded on {})", self.reel.path.display());
                Err(LlmError { kind, message, status, model })
            }
            came => Ok(came),
        }
    }

    fn other(&self, what: &str, place: &Place, model: &str) -> LlmError {
        let path = self.reel.path.display();
        tape_error(format!("the tape {path} holds {what} at the {place}; record anew"), model)
    }

    fn compare(
        &self,
        place: &Place,
        request: &Request,
        line: &Line,
        watch: &dyn Watch,
    ) -> Result<(), LlmError> {
        let Reel { path, home, strict, .. } = self.reel.as_ref();
        let model = &request.model;
        let broken = |error| tape_error(format!("the {place} cannot be compared: {error}"), model);
        // Read back from JSON as the recorded one was: numbers may lose their last digit there.
        let text = serde_json::to_string(&written(request, home)).map_err(broken)?;
        let request: Request = serde_json::from_str(&text).map_err(broken)?;
        if request == line.request {
            return Ok(());
        }
        let (changes, count) =
            diff(&shown(&line.request).map_err(broken)?, &shown(&request).map_err(broken)?);
        let what =
            format!("the request of the {place} differs from the one on {} in {count} lines", path.display());
        watch.differs(&what, &changes);
        if *strict {
            return Err(tape_error(
                format!(
                    "{what}; the warning event before this shows them. Replay without strict=True to go on all the \
                     same, or record anew."
                ),
                model,
            ));
        }
        Ok(())
    }

    fn lacks(&self, place: &Place) -> String {
        let Reel { path, tape, .. } = self.reel.as_ref();
        let there =
            tape.calls.keys().filter(|other| Place { call: place.call, ..(*other).clone() } == *place);
        let recorded = match there.count() {
            0 => "no call of this agent".to_owned(),
            count => format!("only {count} of this agent"),
        };
        let version = if tape.head.cmbagent == env!("CARGO_PKG_VERSION") {
            String::new()
        } else {
            format!(" It was recorded with cmbagent {}.", tape.head.cmbagent)
        };
        format!(
            "the tape {} does not hold the {place}: it has {recorded} there, and a replay asks no model. The run \
             went another way than the recorded one: a script may have failed here, or the task, the settings or \
             the package differ.{version} Earlier warnings show where; or record anew.",
            path.display()
        )
    }
}

impl Provider for Player {
    fn call<'a>(&'a self, call: &'a Call, watch: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        ready(self.answer(call, watch)).boxed()
    }

    fn read_pdf<'a>(
        &'a self,
        paper: &'a Paper,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Reading, LlmError>> {
        ready(self.reading(paper, watch)).boxed()
    }

    fn window(&self, model: &str) -> Option<u32> {
        self.reel.models.window(model)
    }

    fn vision(&self, model: &str) -> Option<bool> {
        self.reel.models.vision(model)
    }

    /// What was not reached when it was recorded is not asked now.
    fn reaches(&self, model: &str, _: &CallOptions) -> bool {
        self.reel.tape.calls.values().any(|line| line.request.model == model)
    }

    fn quote(&self, request: &Request) -> Quote {
        self.reel.models.quote(request).free()
    }

    fn within(&self, place: &Place, _: Arc<dyn Provider>) -> Arc<dyn Provider> {
        Arc::new(Self { reel: self.reel.clone(), inside: format!("{}{}", self.inside, place.path()) })
    }
}

/// What says that the tape is of something else.
fn foreign(path: &Path, recorded: &Head, own: &Head) -> Option<String> {
    let what = match (recorded.workflow == own.workflow, recorded.task == own.task) {
        (true, true) => return None,
        (true, false) => "another task".to_owned(),
        (false, same) => {
            let task = if same { "" } else { " and another task" };
            format!("the workflow {:?}{task}", recorded.workflow)
        }
    };
    Some(format!(
        "the tape {} was recorded for {what}; this is the workflow {:?}",
        path.display(),
        own.workflow
    ))
}
