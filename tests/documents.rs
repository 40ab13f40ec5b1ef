//! The run's door to documents: what is downloaded or read once is not fetched, or paid for, again.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cmbagent::Error;
use cmbagent::engine::approval::Nobody;
use cmbagent::engine::clock::SteppingClock;
use cmbagent::engine::{Control, Event, Limits, Listener, Run, Why, run::Services};
use cmbagent::exec::scripted::ScriptedRunner;
use cmbagent::journal::{Entry, Journal, MemoryJournal, Position};
use cmbagent::library::ScriptedDocuments;
use cmbagent::llm::fetch::Bounds;
use cmbagent::llm::ocr::{Paper, Reading};
use cmbagent::llm::tape::{Player, Recorder, Subject};
use cmbagent::llm::{Call, LlmError, Provider, Reply, Watch};
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Counts the PDFs it reads.
#[derive(Default)]
struct Reader(AtomicUsize);

impl Provider for Reader {
    fn call<'a>(&'a self, _: &'a Call, _: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        unreachable!("nobody is called")
    }

    fn read_pdf<'a>(&'a self, _: &'a Paper, _: &'a dyn Watch) -> BoxFuture<'a, Result<Reading, LlmError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let pages = vec!["# One".to_owned()];
        async { Ok(Reading { pages, pages_processed: 1, doc_size_bytes: 4, cost: Some(0.25) }) }.boxed()
    }
}

/// Hears the warnings.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Listener for Ear {
    fn event(&self, event: &Event) {
        if event.kind == "warning" {
            self.0.lock().unwrap().push(event.data["message"].as_str().unwrap().to_owned());
        }
    }
}

/// A run in a process of its own over what the journal holds.
fn live(journal: &Arc<MemoryJournal>, reader: &Arc<Reader>) -> Run {
    hearing(journal, reader.clone(), Arc::<Ear>::default())
}

fn hearing(journal: &Arc<MemoryJournal>, provider: Arc<dyn Provider>, ear: Arc<Ear>) -> Run {
    let services = Services {
        provider,
        runner: Arc::new(ScriptedRunner::default()),
        documents: Arc::new(ScriptedDocuments::default()),
        approvals: Arc::new(Nobody),
        listener: ear,
        clock: Arc::new(SteppingClock::default()),
        journal: journal.clone(),
    };
    Run::new("run-1", services, Control::default()).unwrap().at_phase(0, 0, "p")
}

#[tokio::test]
async fn a_pdf_is_read_once_paid_once_and_counted_among_the_calls() {
    let (journal, reader) = (Arc::default(), Arc::<Reader>::default());
    for _ in 0..2 {
        let run = live(&journal, &reader).with_call_limit("max_rounds", 1);
        let reading = run.read_pdf(Path::new("a.pdf"), "m").await.unwrap();
        assert_eq!(reading.pages, ["# One"]);
        assert_eq!(reader.0.load(Ordering::Relaxed), 1);
        let lines = run.ledger().since(0);
        assert_eq!((lines.len(), lines[0].agent.as_str(), lines[0].usage.cost), (1, "ocr", Some(0.25)));
        let error = run.read_pdf(Path::new("b.pdf"), "m").await.unwrap_err();
        assert!(error.to_string().contains("max_rounds=1"), "{error}");
    }
}

#[tokio::test]
async fn a_pdf_that_was_read_before_a_rewind_was_paid_all_the_same() {
    let (journal, reader) = (Arc::<MemoryJournal>::default(), Arc::<Reader>::default());
    live(&journal, &reader).read_pdf(Path::new("a.pdf"), "m").await.unwrap();
    let to = Position::default();
    journal.append(0.0, Position::of_attempt(0), Entry::Rewound { to }).unwrap();
    let again = live(&journal, &reader);
    again.read_pdf(Path::new("a.pdf"), "m").await.unwrap();
    assert_eq!(reader.0.load(Ordering::Relaxed), 2);
    let costs: Vec<_> = again.ledger().since(0).iter().map(|line| line.usage.cost).collect();
    assert_eq!(costs, [Some(0.25); 2]);
}

#[tokio::test]
async fn pages_count_against_limits() {
    let reader = Arc::<Reader>::default();
    for (limits, read) in [(json!({"max_cost": 0.3}), 2), (json!({"max_llm_calls": 1}), 1)] {
        let limits = Limits::of(&limits).unwrap();
        let run = live(&Arc::default(), &reader).within(limits);
        for _ in 0..read {
            run.read_pdf(Path::new("a.pdf"), "m").await.unwrap();
        }
        let error = run.read_pdf(Path::new("a.pdf"), "m").await.unwrap_err();
        assert!(matches!(error, Error::OverLimit(_)), "{error}");
    }
}

#[tokio::test]
async fn what_a_pdf_says_is_on_the_tape() {
    let temp = tempfile::tempdir().unwrap();
    let (tape, paper) = (temp.path().join("tape.jsonl"), temp.path().join("a.pdf"));
    std::fs::write(&paper, "%PDF-1").unwrap();
    let subject = |place: &str| Subject {
        run: "run-1".into(),
        workflow: "w".into(),
        task: "t".into(),
        work_dir: temp.path().join(place),
    };
    let reader = Arc::<Reader>::default();
    let recorder = Recorder::open(&tape, reader.clone(), &subject("one")).unwrap();
    let recorded = hearing(&Arc::default(), Arc::new(recorder), Arc::default());
    let first = recorded.read_pdf(&paper, "m").await.unwrap();
    let text = std::fs::read_to_string(&tape).unwrap();
    assert!(!text.contains(temp.path().to_str().unwrap()), "{text}");

    // The same paper in another directory is the same paper.
    let elsewhere = temp.path().join("two");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(&paper, elsewhere.join("a.pdf")).unwrap();
    let play = |strict, ear: Arc<Ear>| {
        let player = Player::open(&tape, reader.clone(), &subject("two"), strict).unwrap();
        hearing(&Arc::default(), Arc::new(player), ear)
    };
    let again = play(true, Arc::default());
    let second = again.read_pdf(&elsewhere.join("a.pdf"), "m").await.unwrap();
    assert_eq!(second, Reading { cost: Some(0.0), ..first.clone() });
    assert_eq!(again.ledger().since(0)[0].usage.cost, Some(0.0));
    assert_eq!(reader.0.load(Ordering::Relaxed), 1, "nobody reads it again");

    // A paper that changed, or is gone, is told.
    for change in [Some("%PDF-2"), None] {
        match change {
            Some(text) => std::fs::write(elsewhere.join("a.pdf"), text).unwrap(),
            None => std::fs::remove_file(elsewhere.join("a.pdf")).unwrap(),
        }
        let ear = Arc::<Ear>::default();
        let third = play(false, ear.clone()).read_pdf(&elsewhere.join("a.pdf"), "m").await.unwrap();
        assert_eq!(third.pages, first.pages);
        let told = ear.0.lock().unwrap().clone();
        assert!(told.len() == 1 && told[0].contains("call 1 of the ocr in phase 0 (p) differs"), "{told:?}");
        let error = play(true, Arc::default()).read_pdf(&elsewhere.join("a.pdf"), "m").await.unwrap_err();
        assert!(error.to_string().contains("strict=True"), "{error}");
    }
}

#[tokio::test]
async fn a_download_is_made_once_and_its_file_is_missed_when_it_is_gone() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("a.pdf");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\n%PDF";
        socket.write_all(answer).await.unwrap();
    });
    let (journal, reader) = (Arc::default(), Arc::default());
    let get = || async { live(&journal, &reader).download(&url, &target, Bounds::default()).await };
    let first = get().await.unwrap();
    served.await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"%PDF");
    // Nobody listens any more.
    assert_eq!(get().await.unwrap(), first);
    std::fs::remove_file(&target).unwrap();
    let error = get().await.unwrap_err();
    assert!(matches!(error, Error::MissingFile(_)), "{error}");

    let stopped = live(&journal, &reader);
    stopped.control().cancel(Why::Requested);
    let error = stopped.download(&url, &target, Bounds::default()).await.unwrap_err();
    assert!(error.is_stop(), "{error}");
}
