//! The connection to one supervisor process: requests go in, events come out, and its loss is told.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::supervise::NO_NETWORK;
use super::supervisor::lock;
use super::wire::{Event, Request};
use super::{ExecError, environment, tree};

/// Live chunks that wait for a future that is not polled; beyond it they are counted, not kept.
const CHUNKS: usize = 64;
/// How much of a supervisor's last words is kept.
const LAST_WORDS: usize = 4096;
/// The variable that marks everything a supervisor starts, for the day it cannot clean up itself.
pub(super) const MARK: &str = "CMBAGENT_SCRIPT_MARK";

/// The connection to one supervisor process.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Whether it was started without a network.
    pub(super) isolated: bool,
    /// Whether it runs a script. It ends whatever lives below it after each, so it runs one at a time.
    busy: Arc<AtomicBool>,
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    pub(super) abort: CancellationToken,
    pub(super) mark: Arc<str>,
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
pub(super) struct Answer {
    pub(super) id: u64,
    pub(super) link: Link,
    pub(super) chunks: mpsc::Receiver<String>,
    pub(super) done: oneshot::Receiver<Event>,
}

impl Answer {
    pub(super) async fn event(self) -> Result<Event, ExecError> {
        self.done.await.map_err(|_| self.link.lost())
    }
}

impl Link {
    pub(super) fn start(command: &[OsString], isolated: bool) -> Result<Self, ExecError> {
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
    pub(super) fn alive(&self) -> bool {
        !self.requests.is_closed() && lock(&self.waiting).lost.is_none()
    }

    /// Takes the supervisor for one script, unless another has it.
    pub(super) fn claim(&self) -> bool {
        !self.busy.swap(true, Ordering::AcqRel)
    }

    /// Gives it back after a script.
    pub(super) fn free(&self) {
        self.busy.store(false, Ordering::Release);
    }

    /// Sends a request; its answer is to come.
    pub(super) fn send(self, id: u64, request: &Request) -> Result<Answer, ExecError> {
        let mut message = serde_json::to_vec(request)
            .map_err(|error| ExecError::Io(format!("a path of the script cannot be passed on: {error}")))?;
        message.push(b'\n');
        let (chunk_sender, chunks) = mpsc::channel(CHUNKS);
        let (sender, done) = oneshot::channel();
        lock(&self.waiting).pending.insert(id, Pending { chunks: chunk_sender, unseen: 0, done: sender });
        // When the other side is gone, its reader drops every pending request: `done` tells.
        let _ = self.requests.send(message);
        if let Some(lost) = lock(&self.waiting).lost.clone() {
            return Err(ExecError::Supervisor(lost));
        }
        Ok(Answer { id, link: self, chunks, done })
    }

    /// Cancels a script whose end nobody waits for.
    pub(super) fn give_up(&self, id: u64) {
        self.cancel(id);
        lock(&self.waiting).pending.remove(&id);
    }

    pub(super) fn cancel(&self, id: u64) {
        if let Ok(mut line) = serde_json::to_vec(&Request::Cancel { id }) {
            line.push(b'\n');
            let _ = self.requests.send(line);
        }
    }

    pub(super) fn lost(&self) -> ExecError {
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
