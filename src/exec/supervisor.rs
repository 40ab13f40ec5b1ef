//! The engine's side of the process that runs scripts.
//!
//! Scripts are not children of the host process but of a *supervisor*: a small process of its own,
//! started with the first request; a run that executes scripts at once has one for each. It adopts every orphan below it and kills them all
//! when a script ends, is cancelled or runs out of time, and when its pipe to the engine closes.
//! So neither a `kill -9` of the host nor a `setsid` in a script leaves a process behind.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::sandbox::places::{self, Host};
use super::sandbox::scratch::Scratch;
use super::sandbox::{Mode, Policy};
use super::supervise::NO_NETWORK;
pub use super::supervise::supervise;
use super::wire::{Event, Job, Request};
use super::{Check, ExecError, Execution, Facts, Package, Runner, Script, environment, install, tree};

/// Live chunks that wait for a future that is not polled; beyond it they are counted, not kept.
const CHUNKS: usize = 64;
/// How long a supervisor may take to end a cancelled script before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a supervisor's last words is kept.
const LAST_WORDS: usize = 4096;
/// The variable that marks everything a supervisor starts, for the day it cannot clean up itself.
const MARK: &str = "CMBAGENT_SCRIPT_MARK";

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

/// The connection to one supervisor process.
#[derive(Debug, Clone)]
struct Link {
    /// Whether it was started without a network.
    isolated: bool,
    /// Whether it runs a script. It ends whatever lives below it after each, so it runs one at a time.
    busy: Arc<AtomicBool>,
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    abort: CancellationToken,
    mark: Arc<str>,
}

/// Requests without an answer, and how the supervisor was lost, once it is.
#[derive(Debug, Default)]
struct Waiting {
    pending: HashMap<u64, Pending>,
    lost: Option<String>,
}

#[derive(Debug)]
struct Pending {
    chunks: mpsc::Sender<String>,
    unseen: usize,
    done: oneshot::Sender<Event>,
}

/// What a request's future waits for.
struct Answer {
    id: u64,
    link: Link,
    chunks: mpsc::Receiver<String>,
    done: oneshot::Receiver<Event>,
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
        let mut message = serde_json::to_vec(&request(id, &link.mark))
            .map_err(|error| ExecError::Io(format!("a path of the script cannot be passed on: {error}")))?;
        message.push(b'\n');
        let (chunk_sender, chunks) = mpsc::channel(CHUNKS);
        let (sender, done) = oneshot::channel();
        lock(&link.waiting).pending.insert(id, Pending { chunks: chunk_sender, unseen: 0, done: sender });
        // When the other side is gone, its reader drops every pending request: `done` tells.
        let _ = link.requests.send(message);
        if let Some(lost) = lock(&link.waiting).lost.clone() {
            return Err(ExecError::Supervisor(lost));
        }
        Ok(Answer { id, link, chunks, done })
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
        let Some(id) = self.id else { return self.link.busy.store(false, Ordering::Release) };
        self.link.cancel(id);
        lock(&self.link.waiting).pending.remove(&id);
        lock(&self.owner.links).retain(|link| link.mark != self.link.mark);
    }
}

impl Answer {
    async fn event(self) -> Result<Event, ExecError> {
        self.done.await.map_err(|_| self.link.lost())
    }
}

impl Link {
    fn start(command: &[OsString], isolated: bool) -> Result<Self, ExecError> {
        let (program, arguments) = command.split_first().ok_or_else(|| {
            ExecError::Supervisor("no command was given to start the supervisor of scripts with".to_owned())
        })?;
        let mut process = Command::new(program);
        process
            .args(arguments)
            // A script can read the environment of its parent, so the parent has no secret either.
            .env_clear()
            .envs(environment::filtered(std::env::vars_os()))
            .envs(isolated.then_some((NO_NETWORK, "1")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Out of the terminal's group: Ctrl-C is the host's to handle.
            .process_group(0);
        let cannot = |error: &dyn std::fmt::Display| {
            let program = program.to_string_lossy();
            ExecError::Supervisor(format!(
                "the supervisor of scripts could not be started with {program}: {error}; \
                 check that this interpreter exists and may be executed"
            ))
        };
        let mut child = process.spawn().map_err(|error| cannot(&error))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(cannot(&"its pipes are missing"));
        };
        let (requests, queue) = mpsc::unbounded_channel();
        let link = Self {
            isolated,
            busy: Arc::default(),
            requests,
            waiting: Arc::default(),
            abort: CancellationToken::new(),
            mark: uuid::Uuid::new_v4().to_string().into(),
        };
        let words = tokio::spawn(last_words(stderr));
        tokio::spawn(write(queue, stdin));
        let reader = Reader {
            child,
            waiting: Arc::clone(&link.waiting),
            abort: link.abort.clone(),
            mark: Arc::clone(&link.mark),
        };
        tokio::spawn(reader.run(stdout, words));
        Ok(link)
    }

    /// A link is of no use when its supervisor is lost or the runtime of its tasks is gone.
    fn alive(&self) -> bool {
        !self.requests.is_closed() && lock(&self.waiting).lost.is_none()
    }

    /// Takes the supervisor for one script, unless another has it.
    fn claim(&self) -> bool {
        !self.busy.swap(true, Ordering::AcqRel)
    }

    fn cancel(&self, id: u64) {
        if let Ok(mut line) = serde_json::to_vec(&Request::Cancel { id }) {
            line.push(b'\n');
            let _ = self.requests.send(line);
        }
    }

    fn lost(&self) -> ExecError {
        ExecError::Supervisor(lock(&self.waiting).lost.clone().unwrap_or_default())
    }
}

/// Writes requests; its end closes the supervisor's input, which ends the supervisor.
async fn write(mut queue: mpsc::UnboundedReceiver<Vec<u8>>, mut stdin: ChildStdin) {
    while let Some(line) = queue.recv().await {
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// The end of what the supervisor wrote on its standard error.
async fn last_words(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(LAST_WORDS);
        kept.drain(..excess);
    }
    let text = String::from_utf8_lossy(&kept).into_owned();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// The task that reads events and hands them to whoever waits for them.
struct Reader {
    child: Child,
    waiting: Arc<Mutex<Waiting>>,
    abort: CancellationToken,
    mark: Arc<str>,
}

impl Reader {
    async fn run(mut self, stdout: ChildStdout, words: tokio::task::JoinHandle<String>) {
        let mut lines = BufReader::new(stdout).lines();
        let mut ready = false;
        let mut complaint = None;
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line,
                () = self.abort.cancelled() => {
                    complaint = Some("it did not end a cancelled script in time".to_owned());
                    break;
                }
            };
            let Ok(Some(line)) = line else { break };
            match serde_json::from_str::<Event>(&line) {
                Ok(Event::Ready) => ready = true,
                Ok(event) => self.deliver(event),
                Err(_) if !ready => {}
                Err(error) => {
                    complaint = Some(format!("it sent a line that is not an event ({error})"));
                    break;
                }
            }
        }
        if complaint.is_some() {
            let _ = self.child.start_kill();
        }
        let status = self.child.wait().await;
        let mark = format!("{MARK}={}", self.mark);
        // What the supervisor had to leave behind; nothing after an orderly end.
        let swept = tokio::task::spawn_blocking(move || tree::end_marked(&mark)).await.unwrap_or(0);
        // A straggler may hold the pipe of the last words open.
        let words = tokio::time::timeout(Duration::from_secs(1), words).await;
        let words = words.ok().and_then(Result::ok).unwrap_or_default();
        let text = lost_text(ready, complaint, status.as_ref().ok(), swept, &words);
        lock(&self.waiting).lost = Some(text);
    }

    fn deliver(&self, event: Event) {
        let mut waiting = lock(&self.waiting);
        match event {
            Event::Ready => {}
            Event::Output { id, text } => {
                if let Some(pending) = waiting.pending.get_mut(&id) {
                    pending.show(text);
                }
            }
            Event::Checked { id, .. }
            | Event::Facts { id, .. }
            | Event::Done { id, .. }
            | Event::Failed { id, .. } => {
                // Nobody waits any more after a dropped future.
                if let Some(pending) = waiting.pending.remove(&id) {
                    let _ = pending.done.send(event);
                }
            }
        }
    }
}

/// Whoever still waits is told, also when the runtime drops this task.
impl Drop for Reader {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        waiting
            .lost
            .get_or_insert_with(|| "the runtime that served the supervisor of scripts has ended".to_owned());
        waiting.pending.clear();
    }
}

impl Pending {
    /// Offers live text; a reader that does not keep up never holds up the script.
    fn show(&mut self, text: String) {
        let length = text.len();
        let text = match self.unseen {
            0 => text,
            unseen => format!("\n[… {unseen} bytes not shown live …]\n{text}"),
        };
        match self.chunks.try_send(text) {
            Ok(()) => self.unseen = 0,
            Err(_) => self.unseen += length,
        }
    }
}

fn lost_text(
    ready: bool,
    complaint: Option<String>,
    status: Option<&ExitStatus>,
    swept: usize,
    words: &str,
) -> String {
    let how = complaint.or_else(|| status.map(ToString::to_string)).unwrap_or_else(|| "unknown".to_owned());
    let mut text = if ready {
        format!("the supervisor of scripts was lost ({how})")
    } else {
        format!("the supervisor of scripts did not start ({how})")
    };
    if swept > 0 {
        text.push_str("; what it had started was ended");
    }
    if !words.is_empty() {
        text.push_str("; its last words: ");
        text.push_str(words);
    }
    text.push_str("; the next script starts a new one");
    text
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
