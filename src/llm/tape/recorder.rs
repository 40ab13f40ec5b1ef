//! Writes down what a provider is asked and what it answers.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::home::Home;
use super::request::written;
use super::{Came, Head, Line, Subject, Tape, TapeError, tape_error};
use crate::llm::ocr::{Paper, Reading};
use crate::llm::{Call, CallOptions, LlmError, LlmErrorKind, Place, Provider, Quote, Reply, Request, Watch};

/// A provider that records the calls of another one.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<dyn Provider>,
    sheet: Arc<Sheet>,
    /// Where the run is in the recorded one; empty for that run itself.
    inside: String,
}

struct Sheet {
    path: PathBuf,
    home: Home,
    file: Mutex<File>,
}

impl Recorder {
    /// Records the calls of `inner` in a new file at `path`, which its owner alone may read; or goes on
    /// with the tape there when it is the same run's.
    ///
    /// Fails when there is another file, which is never written over, or when it cannot be written.
    pub fn open(path: &Path, inner: Arc<dyn Provider>, subject: &Subject) -> Result<Self, TapeError> {
        let file = match create(path) {
            Ok(mut file) => {
                let line = serde_json::to_string(&Head::of(subject)).map_err(std::io::Error::from);
                line.and_then(|line| file.write_all(format!("{line}\n").as_bytes()))
                    .map_err(|error| unwritable(path, &error))?;
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => go_on(path, subject)?,
            Err(error) => return Err(unwritable(path, &error)),
        };
        let home = Home::new(&subject.work_dir);
        let sheet = Sheet { path: path.to_owned(), home, file: Mutex::new(file) };
        Ok(Self { inner, sheet: Arc::new(sheet), inside: String::new() })
    }

    /// Writes down how `ended` what was asked at `place`.
    fn write<T: Clone>(
        &self,
        (place, request): (&Place, &Request),
        ended: &Result<T, LlmError>,
        came: fn(T) -> Came,
    ) -> Result<(), LlmError> {
        let came = match ended.clone() {
            Ok(answer) => came(answer),
            // Whoever stopped the run does so in a replay too, or not.
            Err(error) if error.kind == LlmErrorKind::Cancelled => return Ok(()),
            Err(error) => error.into(),
        };
        let Sheet { path, home, file } = self.sheet.as_ref();
        let line = Line {
            place: place.within(&self.inside),
            request: written(request, home),
            came: match came {
                Came::Reply(reply) => Came::Reply(Reply { text: home.hide(&reply.text), ..reply }),
                other => other,
            },
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let line = serde_json::to_string(&line).map_err(std::io::Error::from);
        line.and_then(|line| append(&mut file, &line)).map_err(|error| {
            let message = format!(
                "the {place} was answered but could not be recorded on {}: {error}; make room there or record elsewhere",
                path.display()
            );
            tape_error(message, &request.model)
        })
    }
}

impl Provider for Recorder {
    fn call<'a>(&'a self, call: &'a Call, watch: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        async move {
            let ended = self.inner.call(call, watch).await;
            self.write((&call.place, &call.request), &ended, Came::Reply)?;
            ended
        }
        .boxed()
    }

    fn window(&self, model: &str) -> Option<u32> {
        self.inner.window(model)
    }

    fn quote(&self, request: &Request) -> Quote {
        self.inner.quote(request)
    }

    fn vision(&self, model: &str) -> Option<bool> {
        self.inner.vision(model)
    }

    fn reaches(&self, model: &str, options: &CallOptions) -> bool {
        self.inner.reaches(model, options)
    }

    fn read_pdf<'a>(
        &'a self,
        paper: &'a Paper,
        watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Reading, LlmError>> {
        async move {
            let ended = self.inner.read_pdf(paper, watch).await;
            self.write((&paper.place, &paper.request), &ended, Came::Pages)?;
            ended
        }
        .boxed()
    }

    fn within(&self, place: &Place, own: Arc<dyn Provider>) -> Arc<dyn Provider> {
        let inside = format!("{}{}", self.inside, place.path());
        Arc::new(Self { inner: own, sheet: self.sheet.clone(), inside })
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Opens the tape of the same run, behind its last whole line.
fn go_on(path: &Path, subject: &Subject) -> Result<File, TapeError> {
    let tape = Tape::read(path)?;
    if tape.head.run != subject.run {
        return Err(TapeError::Unusable(format!(
            "{} holds the recording of run {} and is not written over; record to another file, or delete it first",
            path.display(),
            tape.head.run
        )));
    }
    let open = || {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(tape.whole)?;
        file.seek(SeekFrom::End(0))?;
        Ok(file)
    };
    open().map_err(|error: std::io::Error| unwritable(path, &error))
}

/// Appends a line wholly or not at all.
fn append(file: &mut File, line: &str) -> std::io::Result<()> {
    let before = file.stream_position()?;
    file.write_all(format!("{line}\n").as_bytes()).inspect_err(|_| {
        // What remains when this fails too is a line without an end, which readers leave out.
        let _ = file.set_len(before).and_then(|()| file.seek(SeekFrom::Start(before)));
    })
}

fn unwritable(path: &Path, error: &std::io::Error) -> TapeError {
    TapeError::Unusable(format!(
        "the tape {} cannot be written: {error}; its directory must exist and be writable",
        path.display()
    ))
}
