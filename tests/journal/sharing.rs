//! Two processes on one store: leases, demands, questions, and what is left when one of them is killed.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use cmbagent::journal::Claim;
use cmbagent::journal::lease::STALE_SECONDS;
use cmbagent::journal::{Demand, Journal, Store};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::json;

use super::shelf::{Shelf, at, claim, commit, event, wait};

const PLACE: &str = "JOURNAL_TEST_STORE";

/// Another process that runs `run-1`, and does what it is told line by line.
struct Other {
    process: std::process::Child,
    tell: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(shelf: &Shelf) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["sharing::other", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PLACE, shelf.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut other = Self { tell: process.stdin.take().unwrap(), said, process };
        other.hears("ready");
        other
    }

    /// Waits until it says this.
    fn hears(&mut self, what: &str) -> String {
        let words = self.said.by_ref().map(|line| line.unwrap());
        let mut all = Vec::new();
        for line in words {
            if let Some(rest) = line.split_once(what).map(|(_, rest)| rest.trim().to_owned()) {
                return rest;
            }
            all.push(line);
        }
        panic!("it ended without saying {what}: {all:?}")
    }

    fn does(&mut self, what: &str) {
        writeln!(self.tell, "{what}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Gone already, mostly.
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }
}

#[test]
#[ignore = "the other process of the tests here"]
fn other() {
    let store = Store::open(std::env::var_os(PLACE).unwrap().as_ref()).unwrap();
    let journal = store.begin(&Claim { guards: true, ..claim("run-1") }).unwrap();
    let say = |words: String| {
        let mut out = std::io::stdout();
        writeln!(out, "\n{words}").and_then(|()| out.flush()).unwrap();
    };
    say("ready".into());
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "record" => {
                let recorded = journal.append(0.0, at(0, 0, 0), event("other", json!(1)));
                say(format!("recorded: {:?}", recorded.and_then(|_| commit(&journal))));
            }
            "heed" => say(format!("demanded: {:?}", wait(journal.demand()))),
            "ask" => {
                journal.ask("1.2.3", &json!({"message": "Go on?"})).unwrap();
                commit(&journal).unwrap();
                say("asked".into());
                let answer = wait(journal.answered("1.2.3"));
                journal.settle("1.2.3", &answer).unwrap();
                commit(&journal).unwrap();
                say(format!("answered: {answer}"));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_run_is_its_process_s_own_until_that_is_killed() {
    let shelf = Shelf::new();
    let mut other = Other::start(&shelf);
    other.does("record");
    assert_eq!(other.hears("recorded:"), "Ok(())");
    let store = shelf.open();
    let refusal = store.begin(&claim("run-1")).err().unwrap().to_string();
    let pid = other.process.id();
    assert!(refusal.contains("run run-1") && refusal.contains(&format!("process {pid} on ")), "{refusal}");
    let same_directory = Claim { guards: true, ..claim("run-2") };
    assert!(store.begin(&same_directory).err().unwrap().to_string().contains("in use by run run-1"));
    assert_eq!(store.run("run-1").unwrap().unwrap().owner.unwrap().pid, pid);

    other.signal(Signal::KILL);
    // It has ended, though its parent has not taken notice.
    let seen = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(Pid::from_child(&other.process)), seen).unwrap();
    let row = store.run("run-1").unwrap().unwrap();
    assert_eq!((row.status.as_str(), row.owner), ("interrupted", None));
    drop(store.begin(&same_directory).unwrap());
    let journal = store.begin(&claim("run-1")).unwrap();
    assert_eq!(journal.records(1).unwrap().len(), 1);
    assert_eq!(journal.append(0.0, at(0, 0, 1), event("mine", json!(1))).unwrap(), 2);
    commit(&journal).unwrap();
}

#[test]
fn an_owner_that_slept_too_long_finds_its_run_taken_over() {
    let shelf = Shelf::new();
    let mut other = Other::start(&shelf);
    other.signal(Signal::STOP);
    let sql = "UPDATE runs SET heartbeat = heartbeat - ?1";
    shelf.sql().execute(sql, [2.0 * STALE_SECONDS]).unwrap();
    let journal = shelf.begin("run-1");
    journal.append(0.0, at(0, 0, 0), event("mine", json!(1))).unwrap();
    commit(&journal).unwrap();
    other.signal(Signal::CONT);
    other.does("record");
    let said = other.hears("recorded:");
    assert!(said.starts_with("Err") && said.contains("taken over by another process"), "{said}");
    other.does("heed");
    assert_eq!(other.hears("demanded:"), "Cancel");
    let records = journal.records(1).unwrap();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].entry, event("mine", json!(1)));
}

#[test]
fn demands_reach_the_process_that_runs_a_run_in_their_order() {
    let shelf = Shelf::new();
    let mut other = Other::start(&shelf);
    let store = shelf.open();
    for demand in [Demand::Pause, Demand::Resume, Demand::Stop, Demand::Cancel] {
        store.demand("run-1", demand).unwrap();
    }
    for expected in ["Pause", "Resume", "Stop", "Cancel"] {
        other.does("heed");
        assert_eq!(other.hears("demanded:"), expected);
    }
    store.demand("run-1", Demand::Stop).unwrap();
    other.signal(Signal::KILL);
    other.process.wait().unwrap();
    let nobody = store.demand("run-1", Demand::Stop).unwrap_err().to_string();
    assert!(nobody.contains("no process runs it") && nobody.contains("nothing to stop"), "{nobody}");
    assert!(store.demand("run-9", Demand::Stop).unwrap_err().to_string().contains("no run run-9"));
    // What was demanded of the one that is gone is not demanded of the next.
    let journal = store.begin(&claim("run-1")).unwrap();
    store.demand("run-1", Demand::Pause).unwrap();
    assert_eq!(wait(journal.demand()), Demand::Pause);
}

#[test]
fn a_question_is_answered_from_another_process_once() {
    let shelf = Shelf::new();
    let mut other = Other::start(&shelf);
    other.does("ask");
    other.hears("asked");
    let store = shelf.open();
    let question = &store.questions("run-1").unwrap()[0];
    assert_eq!((question.id.as_str(), &question.question), ("1.2.3", &json!({"message": "Go on?"})));
    assert!(question.answer.is_none() && !question.settled);
    store.answer("run-1", "1.2.3", &json!("approve")).unwrap();
    assert_eq!(other.hears("answered:"), "\"approve\"");
    let question = store.questions("run-1").unwrap().remove(0);
    assert_eq!((question.answer, question.settled), (Some(json!("approve")), true));
    for id in ["1.2.3", "9"] {
        let refusal = store.answer("run-1", id, &json!("reject")).unwrap_err().to_string();
        assert!(refusal.contains("no open question"), "{refusal}");
    }
}

#[test]
fn an_answer_given_while_nobody_runs_the_run_waits_for_the_next_life() {
    let shelf = Shelf::new();
    let mut other = Other::start(&shelf);
    other.does("ask");
    other.hears("asked");
    other.signal(Signal::KILL);
    other.process.wait().unwrap();
    let store = shelf.open();
    store.answer("run-1", "1.2.3", &json!("approve")).unwrap();
    let journal = store.begin(&claim("run-1")).unwrap();
    assert_eq!(wait(journal.answered("1.2.3")), json!("approve"));
}
