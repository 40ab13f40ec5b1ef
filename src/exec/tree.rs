//! The processes a script started, and the end of all of them.
//!
//! The supervisor is a child subreaper: whatever loses its parent below it (also after `setsid`
//! or a double fork) becomes its own child. So "no child left" means "no descendant left".

use std::time::{Duration, Instant};

use super::sandbox::limits::Census;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group};

/// One living or dead descendant.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
struct Process {
    pid: i32,
    parent: i32,
    zombie: bool,
}

/// Ends everything below this process and collects it.
///
/// `script` is the process group to begin with; its own exit state is returned when it was
/// collected here. `Err` carries how many processes would not end within five seconds (a process
/// that sleeps in the kernel cannot be ended).
pub(super) fn end_all(script: Option<Pid>) -> (Option<WaitStatus>, Result<(), usize>) {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(200);
    let mut status = None;
    if let Some(pid) = script {
        // The group may be empty already; the walk below finds who left it.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    loop {
        let mut alive = 0;
        for process in descendants() {
            if process.zombie {
                continue;
            }
            alive += 1;
            if let Some(pid) = Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, state))) => {
                    if Some(pid) == script {
                        status = Some(state);
                    }
                }
                Ok(None) => break,
                Err(Errno::INTR) => {}
                Err(_) => return (status, Ok(())),
            }
        }
        if begun.elapsed() > Duration::from_secs(5) {
            return (status, Err(alive.max(1)));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// What lives below this process now; collects dead orphans on the way, except `script`.
#[cfg(target_os = "linux")]
pub(super) fn census(script: Pid) -> Census {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let mut census = Census::default();
    for process in descendants() {
        if process.zombie {
            if process.parent == me && process.pid != script.as_raw_nonzero().get() {
                let _ = rustix::process::waitpid(Pid::from_raw(process.pid), WaitOptions::NOHANG);
            }
            continue;
        }
        census.processes += 1;
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", process.pid)) else { continue };
        census.resident += field(&status, "VmRSS:").unwrap_or(0);
        census.highest = census.highest.max(field(&status, "VmHWM:").unwrap_or(0));
    }
    census
}

/// Resident bytes of all descendants, those that several share counted once.
#[cfg(target_os = "linux")]
pub(super) fn shared() -> u64 {
    let rollups = descendants()
        .into_iter()
        .filter_map(|process| std::fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).ok());
    rollups.filter_map(|text| field(&text, "Pss:")).sum()
}

/// Not known without `/proc`.
#[cfg(not(target_os = "linux"))]
pub(super) fn census(_script: Pid) -> Census {
    Census::default()
}

/// Not known without `/proc`.
#[cfg(not(target_os = "linux"))]
pub(super) fn shared() -> u64 {
    0
}

#[cfg(target_os = "linux")]
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// All descendants of this process, parents before children.
#[cfg(target_os = "linux")]
fn descendants() -> Vec<Process> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let mut found: Vec<Process> = Vec::new();
    let mut queue = vec![me];
    let table = (!std::path::Path::new("/proc/thread-self/children").exists()).then(all_processes);
    while let Some(parent) = queue.pop() {
        let pids = match &table {
            None => children(parent),
            Some(table) => table.iter().filter(|(_, up)| *up == parent).map(|(pid, _)| *pid).collect(),
        };
        for pid in pids {
            if found.iter().any(|process| process.pid == pid) {
                continue;
            }
            if let Some((state, _)) = state_and_parent(pid) {
                found.push(Process { pid, parent, zombie: matches!(state, 'Z' | 'X') });
                queue.push(pid);
            }
        }
    }
    found
}

/// Without `/proc` and subreapers there is only the process group.
#[cfg(not(target_os = "linux"))]
fn descendants() -> Vec<Process> {
    Vec::new()
}

/// A child is listed under the thread that forked it.
#[cfg(target_os = "linux")]
fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// (pid, parent) of every process, for kernels without the `children` files.
#[cfg(target_os = "linux")]
fn all_processes() -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| state_and_parent(pid).map(|(_, parent)| (pid, parent)))
        .collect()
}

#[cfg(target_os = "linux")]
fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and parentheses; what counts comes after the last one.
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// Ends every process whose environment carries `mark`: for a supervisor that was itself killed
/// and could not clean up. Returns how many were signalled.
#[cfg(target_os = "linux")]
pub(super) fn end_marked(mark: &str) -> usize {
    let mut ended = 0;
    // What forks meanwhile is found by the next pass.
    for _ in 0..20 {
        let Ok(entries) = std::fs::read_dir("/proc") else { return ended };
        let marked: Vec<Pid> = entries
            .flatten()
            .filter(|entry| {
                std::fs::read(entry.path().join("environ"))
                    .is_ok_and(|block| block.split(|byte| *byte == 0).any(|item| item == mark.as_bytes()))
            })
            .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .collect();
        if marked.is_empty() {
            return ended;
        }
        for pid in marked {
            ended += usize::from(kill_process(pid, Signal::KILL).is_ok());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    ended
}

/// Needs `/proc`; elsewhere nothing can be found.
#[cfg(not(target_os = "linux"))]
pub(super) fn end_marked(_mark: &str) -> usize {
    0
}
