//! The run's door to documents: what is downloaded or read once is not fetched, or paid for, again.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cmbagent::Error;
use cmbagent::engine::approval::Nobody;
use cmbagent::engine::clock::SteppingClock;
use cmbagent::engine::{Control, Event, Listener, Run, Why, run::Services};
use cmbagent::exec::scripted::ScriptedRunner;
use cmbagent::journal::MemoryJournal;
use cmbagent::library::ScriptedDocuments;
use cmbagent::llm::fetch::Bounds;
use cmbagent::llm::ocr::Reading;
use cmbagent::llm::{Call, LlmError, Provider, Reply, Watch};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Counts the PDFs it reads.
#[derive(Default)]
struct Reader(AtomicUsize);

impl Provider for Reader {
    fn call<'a>(&'a self, _: &'a Call, _: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        unreachable!("nobody is called")
    }

    fn read_pdf<'a>(&'a self, _: &'a Path, _: &'a str) -> BoxFuture<'a, Result<Reading, LlmError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let pages = vec!["# One".to_owned()];
        async { Ok(Reading { pages, pages_processed: 1, doc_size_bytes: 4, cost: Some(0.25) }) }.boxed()
    }
}

struct Deaf;

impl Listener for Deaf {
    fn event(&self, _: &Event) {}
}

/// A run in a process of its own over what the journal holds.
fn live(journal: &Arc<MemoryJournal>, reader: &Arc<Reader>) -> Run {
    let services = Services {
        provider: reader.clone(),
        runner: Arc::new(ScriptedRunner::default()),
        documents: Arc::new(ScriptedDocuments::default()),
        approvals: Arc::new(Nobody),
        listener: Arc::new(Deaf),
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
