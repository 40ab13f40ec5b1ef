//! The engine's side of the process that runs scripts.
//!
//! Scripts are not children of the host process but of a *supervisor*: a small process of its own,
//! started with the first request; a run that executes scripts at once has one for each. It adopts every orphan below it and kills them all
//! when a script ends, is cancelled or runs out of time, and when its pipe to the engine closes.
//! So neither a `kill -9` of the host nor a `setsid` in a script leaves a process behind.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::link::{Answer, Link, MARK};
use super::sandbox::places::{self, Host};
use super::sandbox::scratch::Scratch;
use super::sandbox::{Mode, Policy};
pub use super::supervise::supervise;
use super::wire::{Event, Job, Request};
use super::{Check, ExecError, Execution, Facts, Package, Runner, Script, environment, install};

/// How long a supervisor may take to end a cancelled script before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A [`Runner`] whose scripts run under a supervisor process.
///
/// The futures need a tokio runtime around them (with time and IO); all work happens on its
/// tasks, and `output` is called from the future's own poll only. Dropping a [`Runner::run`]
/// future cancels its script; dropping the whole value ends the supervisor.
#[derive(Debug)]
pub struct Supervised {
    command: Vec<OsString>,
    python: PathBuf,
    links: Mutex<Vec<Link>>,
    /// The record of the run, which scripts may not reach.
    record: Option<PathBuf>,
    /// The run's own directories, made for its first script.
    scratch: Mutex<Option<Arc<Scratch>>>,
    /// Places that may be read, and the secrets beside them: looked for once a run.
    secrets: Mutex<Vec<(Vec<PathBuf>, Vec<PathBuf>)>>,
    next: AtomicU64,
}

impl Supervised {
    /// A runner whose supervisor is started by `command` (program and arguments), which must call
    /// [`supervise`] in the new process. Its first element is also the interpreter of scripts.
    pub fn new(command: Vec<OsString>) -> Self {
        let python = command.first().map(PathBuf::from).unwrap_or_default();
        Self {
            command,
            python,
            links: Mutex::default(),
            record: None,
            scratch: Mutex::default(),
            secrets: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    /// Runs scripts with this interpreter instead of the command's first element.
    #[must_use]
    pub fn with_python(mut self, python: impl Into<PathBuf>) -> Self {
        self.python = python.into();
        self
    }

    /// Keeps scripts from this file, the record of the run.
    #[must_use]
    pub fn recorded_in(mut self, record: Option<PathBuf>) -> Self {
        self.record = record;
        self
    }

    /// The directories of this run.
    fn scratch(&self) -> Result<Arc<Scratch>, ExecError> {
        let mut scratch = lock(&self.scratch);
        if let Some(scratch) = &*scratch {
            return Ok(Arc::clone(scratch));
        }
        let made = Scratch::make().map_err(|error| {
            let place = std::env::temp_dir();
            ExecError::Io(format!(
                "no directory for the temporary files of scripts can be made in {}: {error}; set TMPDIR to \
                 a place with room",
                place.display()
            ))
        })?;
        Ok(Arc::clone(scratch.insert(Arc::new(made))))
    }

    /// What may not be read beside these places.
    fn secrets(&self, open: &[PathBuf], host: &Host) -> Vec<PathBuf> {
        let mut known = lock(&self.secrets);
        if let Some((_, secrets)) = known.iter().find(|(places, _)| places == open) {
            return secrets.clone();
        }
        let found = places::secrets(open, host);
        known.push((open.to_owned(), found.clone()));
        found
    }

    /// The first supervisor that `fits`, or a new one, with a network or without.
    fn link(&self, isolated: bool, fits: impl Fn(&Link) -> bool) -> Result<Link, ExecError> {
        let mut links = lock(&self.links);
        links.retain(Link::alive);
        if let Some(link) = links.iter().find(|link| fits(link)) {
            return Ok(link.clone());
        }
        let link = Link::start(&self.command, isolated)?;
        fits(&link);
        links.push(link.clone());
        Ok(link)
    }

    /// Asks a supervisor for something that is no script: it answers while one runs.
    fn ask(&self, request: impl FnOnce(u64, &str) -> Request) -> Result<Answer, ExecError> {
        self.send(self.link(false, |_| true)?, request)
    }

    fn send(&self, link: Link, request: impl FnOnce(u64, &str) -> Request) -> Result<Answer, ExecError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = request(id, &link.mark);
        link.send(id, &request)
    }
}

impl Runner for Supervised {
    fn check<'a>(&'a self, source: &'a str, filename: &'a str) -> BoxFuture<'a, Result<Check, ExecError>> {
        Box::pin(async move {
            let (source, filename) = (source.to_owned(), filename.to_owned());
            match self.ask(|id, _| Request::Check { id, source, filename })?.event().await? {
                Event::Checked { check, .. } => Ok(check),
                other => Err(unexpected("a check", &other)),
            }
        })
    }

    fn facts(&self) -> BoxFuture<'_, Result<Facts, ExecError>> {
        Box::pin(async move {
            match self.ask(|id, _| Request::Facts { id })?.event().await? {
                Event::Facts { facts, .. } => Ok(facts),
                other => Err(unexpected("facts", &other)),
            }
        })
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
            let scratch = self.scratch()?;
            let mut path = script.python_path.clone();
            path.push(scratch.packages());
            let mut environment =
                environment::for_script(std::env::vars_os(), &path, &script.env_passthrough);
            if script.sandbox.mode != Mode::Off {
                scratch.lead(&mut environment, &script.env_passthrough);
            }
            let python = self.python.clone();
            let host = Host::here().recording(self.record.clone());
            let secrets = |open: &[PathBuf]| self.secrets(open, &host);
            let policy = Policy::of(script, scratch.root(), &python, &host, secrets)?;
            let isolated = !policy.network && policy.mode != Mode::Off;
            let link = self.link(isolated, |link| link.isolated == isolated && link.claim())?;
            let mut claim = Claim { owner: self, link, id: None };
            let answer = self.send(claim.link.clone(), |id, mark| {
                environment.push((MARK.to_owned(), mark.to_owned()));
                Request::Run {
                    id,
                    job: Box::new(Job { python, script: script.clone(), environment, policy }),
                }
            })?;
            let Answer { id, link, mut chunks, mut done } = answer;
            claim.id = Some(id);
            let mut stopping = false;
            let patience = tokio::time::sleep(PATIENCE);
            tokio::pin!(patience);
            let event = loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled(), if !stopping => {
                        stopping = true;
                        patience.as_mut().reset(tokio::time::Instant::now() + PATIENCE);
                        link.cancel(id);
                    }
                    () = &mut patience, if stopping => {
                        link.abort.cancel();
                        break (&mut done).await;
                    }
                    // The channel closes with the answer, after its last chunk.
                    Some(text) = chunks.recv() => output(&text),
                    event = &mut done => break event,
                }
            };
            claim.id = None;
            match event {
                Ok(Event::Done { execution, .. }) => Ok(execution),
                Ok(Event::Failed { message, .. }) => Err(ExecError::Io(message)),
                Ok(other) => Err(unexpected("a script's end", &other)),
                Err(_) => Err(link.lost()),
            }
        })
    }

    fn install<'a>(
        &'a self,
        package: &'a Package,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>> {
        Box::pin(async move {
            let scratch = self.scratch()?;
            let script = install::script(package, scratch.root(), &scratch.packages()).map_err(|error| {
                ExecError::Io(format!("{} cannot be written: {error}", scratch.root().display()))
            })?;
            self.run(&script, &unseen, cancel).await
        })
    }
}

/// Nobody watches an installation line by line.
fn unseen(_: &str) {}

/// The use of a supervisor for one script. Dropped before the script's end, it cancels the script
/// and lets the supervisor go: how long it takes to end the script is then nobody's concern.
struct Claim<'a> {
    owner: &'a Supervised,
    link: Link,
    /// The script that runs.
    id: Option<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return self.link.free() };
        self.link.give_up(id);
        lock(&self.owner.links).retain(|link| link.mark != self.link.mark);
    }
}

fn unexpected(wanted: &str, event: &Event) -> ExecError {
    let came = match event {
        Event::Ready => "a greeting",
        Event::Output { .. } => "output",
        Event::Checked { .. } => "a check",
        Event::Facts { .. } => "facts",
        Event::Done { .. } => "a script's end",
        Event::Failed { message, .. } => message,
    };
    ExecError::Supervisor(format!(
        "the supervisor of scripts was asked for {wanted} and answered with {came}"
    ))
}

/// No code panics while it holds these locks; if one did, the data is still whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
