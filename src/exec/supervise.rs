//! The supervisor's own side: its main loop and the life of one script.

use std::cell::Cell;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process};

use super::output::Sink;
use super::sandbox::limits::{self, Watch};
use super::sandbox::{self, Confinement, Means, Mode, Policy, grants, kernel};
use super::tree;
use super::wire::{Event, Job, Request};
use super::{Check, Execution, Exit, Facts};

/// How long a script may take to end after its time limit interrupted it: enough for a traceback
/// that tells where it was.
const GRACE: Duration = Duration::from_secs(2);
/// How often a young script is looked at, and one with a crowd of processes.
const SHORT: Duration = Duration::from_millis(10);
const CROWD: u64 = 64;

/// The variable that tells a supervisor to leave the network before anything else.
pub(super) const NO_NETWORK: &str = "CMBAGENT_SCRIPTS_NO_NETWORK";

/// What the threads of the supervisor share.
struct Shared {
    output: Mutex<io::Stdout>,
    /// Whether this process has a network of its own, without a way out.
    isolated: bool,
    /// The script that runs, if one does.
    current: Mutex<Option<Current>>,
    /// Set once, under its lock, before the last clean-up: nothing is spawned after it.
    closing: Mutex<bool>,
}

struct Current {
    id: u64,
    cancelled: Arc<AtomicBool>,
    wake: SyncSender<Message>,
}

/// What the loop around a script waits for.
enum Message {
    Chunk(Vec<u8>),
    EndOfOutput,
    Exited,
    Wake,
}

/// The main function of a supervisor process: serves requests from standard input until it ends,
/// then kills everything it started and returns the exit status.
///
/// `check` compiles a source (text, file name) without running it; `facts` describes the machine.
/// Both are called on the calling thread, one at a time, also while a script runs; what keeps them
/// from answering is told to the other side. `raise_loopback` lets processes without a network at
/// least talk to each other; it is called once, where scripts are to have none.
/// The supervisor leaves no process behind when its input ends, whatever ended the other side.
pub fn supervise(
    check: impl Fn(&str, &str) -> Result<Check, String>,
    facts: impl Fn() -> Result<Facts, String>,
    raise_loopback: impl FnOnce() -> Result<(), String>,
) -> i32 {
    // Before any thread is started. Where it is not possible, each script tells so.
    let isolated = std::env::var_os(NO_NETWORK).is_some() && kernel::leave_network().is_ok();
    if isolated && let Err(error) = raise_loopback() {
        let _ = writeln!(io::stderr(), "scripts without a network cannot use 127.0.0.1 either: {error}");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Pid::from_raw(1)) {
        let _ = writeln!(io::stderr(), "cannot adopt the orphans of scripts (child subreaper): {error}");
        return 1;
    }
    let shared = Arc::new(Shared {
        output: Mutex::new(io::stdout()),
        isolated,
        current: Mutex::new(None),
        closing: Mutex::new(false),
    });
    watch_parent(&shared);
    // A leading line break, so that nothing printed before can stand on the same line.
    let _ = lock(&shared.output).write_all(b"\n");
    shared.send(&Event::Ready);

    let mut status = 0;
    for line in io::stdin().lock().lines() {
        let request = match line.map(|line| serde_json::from_str::<Request>(&line)) {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                let _ = writeln!(io::stderr(), "a request could not be read: {error}");
                status = 2;
                break;
            }
            Err(_) => break,
        };
        match request {
            Request::Check { id, source, filename } => {
                let checked = check(&source, &filename).map(|check| Event::Checked { id, check });
                shared.send(&checked.unwrap_or_else(|message| Event::Failed { id, message }));
            }
            Request::Facts { id } => {
                let facts = facts().map(|facts| Event::Facts { id, facts });
                shared.send(&facts.unwrap_or_else(|message| Event::Failed { id, message }));
            }
            Request::Run { id, job } => shared.start(id, *job),
            Request::Cancel { id } => shared.cancel(id),
        }
    }
    shared.close();
    status
}

/// Ends the supervisor when its parent is gone although the pipe is open: a fork of the host
/// process (`multiprocessing`) may hold the other end for as long as it likes.
fn watch_parent(shared: &Arc<Shared>) {
    let parent = rustix::process::getppid();
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        while rustix::process::getppid() == parent {
            std::thread::sleep(Duration::from_millis(250));
        }
        shared.close();
        std::process::exit(0);
    });
}

impl Shared {
    fn send(&self, event: &Event) {
        // Serialising plain data cannot fail; a failed write means that the host is gone, and
        // then the end of the input ends us.
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let mut output = lock(&self.output);
            let _ = output.write_all(&line).and_then(|()| output.flush());
        }
    }

    fn start(self: &Arc<Self>, id: u64, job: Job) {
        let mut current = lock(&self.current);
        if let Some(running) = current.as_ref() {
            let message = format!("script {} is still running; a supervisor runs one at a time", running.id);
            drop(current);
            return self.send(&Event::Failed { id, message });
        }
        let (wake, messages) = sync_channel(64);
        let cancelled = Arc::new(AtomicBool::new(false));
        *current = Some(Current { id, cancelled: Arc::clone(&cancelled), wake: wake.clone() });
        drop(current);
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let life =
                Life { shared: &shared, id, cancelled: &cancelled, wake, messages, silent: Cell::new(false) };
            let event = match life.run(&job) {
                Ok(execution) => Event::Done { id, execution },
                Err(message) => Event::Failed { id, message },
            };
            *lock(&shared.current) = None;
            shared.send(&event);
        });
    }

    fn cancel(&self, id: u64) {
        if let Some(current) = lock(&self.current).as_ref().filter(|current| current.id == id) {
            current.cancelled.store(true, Ordering::SeqCst);
            // A full channel is being read anyhow.
            let _ = current.wake.try_send(Message::Wake);
        }
    }

    fn close(&self) {
        *lock(&self.closing) = true;
        let _ = tree::end_all(None);
    }
}

/// One script, from spawn to the last of its descendants.
struct Life<'a> {
    shared: &'a Shared,
    id: u64,
    cancelled: &'a AtomicBool,
    wake: SyncSender<Message>,
    messages: Receiver<Message>,
    /// Whether the end of the output was seen already.
    silent: Cell<bool>,
}

/// Why the loop around a script ended.
enum Ending {
    Exited,
    TimedOut,
    Cancelled,
    /// It passed a limit, in words.
    Passed(String),
}

impl Life<'_> {
    fn run(self, job: &Job) -> Result<Execution, String> {
        let Job { script, policy, .. } = job;
        let (shared, id) = (self.shared, self.id);
        let mut sink = Sink::open(&script.log_path, |text| shared.send(&Event::Output { id, text }))
            .map_err(|error| format!("the log file of a script cannot be made: {error}"))?;
        let limit = script.timeout_seconds.map(duration).transpose()?;
        let watch = Watch::new(policy.limits.clone(), &policy.write);
        let begun = Instant::now();
        let (pid, confinement) = self.spawn(job)?;
        limits::bind(pid, &policy.limits, watch.room());
        let (ending, peak_rss) = self.follow(pid, limit.map(|limit| begun + limit), &watch, &mut sink);
        let seconds = begun.elapsed().as_secs_f64();

        let waited = waited(pid);
        let (status, left) = tree::end_all(Some(pid));
        self.drain(&mut sink);
        if let Err(count) = left {
            sink.push(format!("\n[{count} processes of this script could not be ended]\n").as_bytes());
        }
        let (output, truncated) = sink.finish();
        let exit = match (ending, limit) {
            (Ending::Cancelled, _) => Exit::Cancelled,
            (Ending::Passed(what), _) => Exit::Limit(what),
            (Ending::TimedOut, Some(limit)) => Exit::Timeout(whole_seconds(limit)),
            _ => waited
                .or_else(|| {
                    let status = status?;
                    status.exit_status().map(Exit::Code).or(status.terminating_signal().map(Exit::Signal))
                })
                .ok_or("the exit state of the script could not be collected")?,
        };
        Ok(Execution { exit, output, truncated, seconds, peak_rss, confinement })
    }

    /// Starts the script and the two threads that report its output and its end.
    fn spawn(&self, job: &Job) -> Result<(Pid, Confinement), String> {
        let Job { python, script, environment, policy } = job;
        let cannot = |error: io::Error| {
            format!(
                "{} could not be started with {} in {}: {error}",
                script.path.display(),
                python.display(),
                script.cwd.display()
            )
        };
        let (mut reader, writer) = io::pipe().map_err(cannot)?;
        let mut command = Command::new(python);
        command
            .arg(&script.path)
            .current_dir(&script.cwd)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(cannot)?)
            .stderr(writer)
            .process_group(0);
        let (child, confinement) = {
            let closing = lock(&self.shared.closing);
            if *closing {
                return Err("the supervisor is ending".to_owned());
            }
            let isolated = self.shared.isolated;
            // What confines a thread confines what it starts, so this one is used up by the script.
            let confined = std::thread::scope(|scope| {
                scope.spawn(|| confine(policy, isolated).map(|told| (command.spawn(), told))).join()
            });
            let (child, told) =
                confined.map_err(|_| "the thread that starts scripts broke off".to_owned())??;
            (child.map_err(cannot)?, told)
        };
        // Our copies of the pipe's end go with the command: else its output would never end.
        drop(command);
        let pid = Pid::from_child(&child);

        let wake = self.wake.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if wake.send(Message::Chunk(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
            let _ = wake.send(Message::EndOfOutput);
        });
        let wake = self.wake.clone();
        std::thread::spawn(move || {
            // The state stays to be collected, so that the pid cannot be given to another process.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(rustix::process::waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
            let _ = wake.send(Message::Exited);
        });
        Ok((pid, confinement))
    }

    /// Passes output on until the script ends, its time is up, or it is cancelled.
    fn follow<F: FnMut(String)>(
        &self,
        pid: Pid,
        mut deadline: Option<Instant>,
        watch: &Watch,
        sink: &mut Sink<F>,
    ) -> (Ending, Option<u64>) {
        let mut peak = None;
        let mut interval = SHORT;
        let mut sample = Instant::now() + interval;
        let mut interrupted = false;
        loop {
            let until = [Some(sample), sink.due(), deadline].into_iter().flatten().min().unwrap_or(sample);
            match self.messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Chunk(bytes)) => sink.push(&bytes),
                Ok(Message::Exited) if interrupted => return (Ending::TimedOut, peak),
                Ok(Message::Exited) | Err(RecvTimeoutError::Disconnected) => return (Ending::Exited, peak),
                Ok(Message::EndOfOutput) => self.silent.set(true),
                Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
            }
            if self.cancelled.load(Ordering::SeqCst) {
                return (Ending::Cancelled, peak);
            }
            let now = Instant::now();
            if sink.due().is_some_and(|due| due <= now) {
                sink.flush();
            }
            if now >= sample {
                let census = tree::census(pid);
                peak = peak.max(Some(census.resident.max(census.highest)).filter(|bytes| *bytes > 0));
                if let Some(what) = watch.passed(census, tree::shared) {
                    return (Ending::Passed(what), peak);
                }
                let crowd = census.processes > CROWD;
                interval = if crowd { SHORT } else { (interval * 2).min(Duration::from_millis(250)) };
                sample = Instant::now() + interval;
            }
            if deadline.is_some_and(|deadline| deadline <= now) {
                if interrupted {
                    return (Ending::TimedOut, peak);
                }
                interrupted = true;
                deadline = Some(now + GRACE);
                let _ = kill_process(pid, Signal::INT);
            }
        }
    }

    /// Takes what is still in the pipe once every writer is dead.
    fn drain<F: FnMut(String)>(&self, sink: &mut Sink<F>) {
        let until = Instant::now() + Duration::from_secs(2);
        while !self.silent.get() {
            match self.messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Chunk(bytes)) => sink.push(&bytes),
                Ok(Message::Exited | Message::Wake) => {}
                Ok(Message::EndOfOutput) | Err(_) => return,
            }
        }
    }
}

/// Confines the calling thread and tells how far that went.
fn confine(policy: &Policy, isolated: bool) -> Result<Confinement, String> {
    let mut means = Means { landlock: None, isolated, bounded: limits::bounded() };
    if policy.mode != Mode::Off {
        means.landlock = kernel::confine(&grants::grants(policy), policy.network || isolated)?;
    }
    sandbox::confinement(policy, means)
}

/// The exit state, if the script has ended by now; it stays to be collected.
fn waited(pid: Pid) -> Option<Exit> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let status = rustix::process::waitid(WaitId::Pid(pid), options).ok()??;
    status.exit_status().map(Exit::Code).or(status.terminating_signal().map(Exit::Signal))
}

fn duration(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| format!("the time limit of {seconds} s is not a usable number of seconds: {error}"))
}

fn whole_seconds(limit: Duration) -> u64 {
    limit.as_secs() + u64::from(limit.subsec_nanos() > 0)
}

/// A thread that panicked while it held a lock must not keep the supervisor from cleaning up.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
