//! Downloads, and PDFs that a model reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cmbagent::llm::fetch::{Bounds, fetch};
use cmbagent::llm::ocr::{MODEL, Paper, Reading};
use cmbagent::llm::retry::RetryPolicy;
use cmbagent::llm::routing::Env;
use cmbagent::llm::{HttpProvider, LlmError, LlmErrorKind as Kind, Place, Prices, Provider, Watch};
use serde_json::json;

use super::server::*;

fn quick() -> Bounds {
    let base = Duration::from_millis(1);
    let retry = RetryPolicy { max_tries: 3, base, crowded_base: base, ..RetryPolicy::default() };
    Bounds { retry, ..Bounds::default() }
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// What comes of a download that is answered like this, and the files it leaves.
async fn download(scripts: Vec<Script>, bounds: Bounds) -> (Result<String, String>, Vec<String>, usize) {
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start(scripts).await;
    let target = temp.path().join("paper.pdf");
    let got = fetch(&format!("{}/paper", server.url), &target, bounds).await;
    let text = got.map_err(|missed| missed.message).map(|fetched| {
        let text = std::fs::read_to_string(&target).unwrap();
        assert_eq!(fetched.bytes, text.len() as u64);
        assert_eq!(fetched.hash, blake3::hash(text.as_bytes()).to_hex().to_string());
        text
    });
    (text, names(temp.path()), server.seen().len())
}

#[tokio::test]
async fn a_document_arrives_whole_or_not_at_all() {
    let whole = reply(200, "", "all of it");
    let (text, files, _) = download(vec![whole.clone()], quick()).await;
    assert_eq!((text.unwrap().as_str(), files), ("all of it", vec!["paper.pdf".to_owned()]));

    // What passes is tried again.
    for fault in [error(503, "busy"), reply(429, "retry-after: 0\r\n", "{}"), vec![], torn("all")] {
        let (text, _, tries) = download(vec![fault, whole.clone()], quick()).await;
        assert_eq!((text.unwrap().as_str(), tries), ("all of it", 2));
    }
    for (fault, tries, words) in [
        (error(404, "gone"), 1, "404"),
        (error(500, "broken"), 3, "500"),
        (reply(302, "location: ftp://else/paper\r\n", ""), 1, "redirected to ftp://else"),
        (reply(302, "location: /paper\r\n", ""), 6, "redirected more than 5 times"),
    ] {
        let (text, files, seen) = download(vec![fault], quick()).await;
        let message = text.unwrap_err();
        assert!(message.contains(words), "{message}");
        assert_eq!((files, seen), (Vec::new(), tries), "{message}");
    }
}

#[tokio::test]
async fn a_document_that_is_too_large_or_too_slow_is_given_up() {
    let small = Bounds { bytes: 4, ..quick() };
    let announced = reply(200, "", "five!");
    let unannounced = stream("five!");
    for script in [announced, unannounced] {
        let (text, files, _) = download(vec![script], small).await;
        assert!(text.unwrap_err().contains("larger than the 4 bytes"));
        assert!(files.is_empty());
    }
    let hurried = Bounds { seconds: 0.2, ..quick() };
    let (text, files, _) = download(vec![stalled("fi")], hurried).await;
    assert!(text.unwrap_err().contains("not downloaded within 0.2 s"));
    assert!(files.is_empty());
    let (text, _, seen) = download(vec![stream("")], Bounds { seconds: -1.0, ..quick() }).await;
    assert!(text.unwrap_err().contains("no number of seconds"));
    assert_eq!(seen, 0);
}

#[tokio::test]
async fn only_addresses_of_the_web_are_asked() {
    for (address, words) in [
        ("file:///etc/passwd", "http or https, not file"),
        ("data:text/plain,x", "http or https, not data"),
        ("arxiv.org/abs/1", "is no address"),
    ] {
        let message = fetch(address, &PathBuf::from("nowhere"), quick()).await.unwrap_err().message;
        assert!(message.contains(words), "{message}");
    }
}

fn pdf() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("paper.pdf");
    std::fs::write(&path, "%PDF-1.4").unwrap();
    (temp, path)
}

/// Nobody watches.
struct Unwatched;

impl Watch for Unwatched {
    fn text(&self, _: &str) {}
    fn retry(&self, _: &str, _: f64, _: u32) {}
}

async fn read(provider: &HttpProvider, path: &Path, model: &str) -> Result<Reading, LlmError> {
    provider.read_pdf(&Paper::new(path, model, Place::default()).await, &Unwatched).await
}

fn two_pages() -> Script {
    let pages = json!([{"index": 0, "markdown": "# One"}, {"index": 1, "markdown": "Two"}]);
    let usage = json!({"pages_processed": 2, "doc_size_bytes": 8});
    reply(200, "", &json!({"pages": pages, "model": MODEL, "usage_info": usage}).to_string())
}

#[tokio::test]
async fn a_pdf_is_read_page_by_page_and_billed() {
    let (_temp, path) = pdf();
    let server = Server::start(vec![error(503, "busy"), two_pages()]).await;
    let reading = read(&provider(&server), &path, MODEL).await.unwrap();
    let expected = Reading {
        pages: vec!["# One".into(), "Two".into()],
        pages_processed: 2,
        doc_size_bytes: 8,
        cost: Some(0.008),
    };
    assert_eq!(reading, expected);
    let seen = server.seen();
    assert_eq!((seen.len(), seen[1].target.as_str()), (2, "/v1/ocr"));
    assert_eq!(seen[1].header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    let document =
        json!({"type": "document_url", "document_url": "data:application/pdf;base64,JVBERi0xLjQ="});
    assert_eq!(seen[1].body, json!({"model": MODEL, "document": document, "include_image_base64": false}));
    let other = read(&provider(&server), &path, "other-ocr").await.unwrap();
    assert_eq!(other.cost, None, "a model without a price costs nothing known");
}

#[tokio::test]
async fn a_pdf_that_cannot_be_read_says_why_and_never_the_key() {
    let (temp, path) = pdf();
    for (script, kind, words) in [
        (error(401, &format!("bad key {KEY}")), Kind::Authentication, "401"),
        (error(500, "broken"), Kind::Server, "500"),
        (reply(200, "", "<html>"), Kind::BadReply, "expected JSON"),
        (reply(200, "", "{\"detail\": 1}"), Kind::BadReply, "gave no pages"),
    ] {
        let server = Server::start(vec![script]).await;
        let error = read(&provider(&server), &path, MODEL).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(words) && !error.message.contains(KEY), "{error}");
    }
    let server = Server::start(vec![two_pages()]).await;
    let gone = read(&provider(&server), &temp.path().join("none.pdf"), MODEL).await.unwrap_err();
    assert!(gone.message.contains("cannot be read"));
    let nobody: Env = Arc::new(|_| None);
    let keyless = HttpProvider::new(Arc::new(NoKey), nobody, Arc::new(Prices::builtin()));
    let missing = read(&keyless, &path, MODEL).await.unwrap_err();
    assert_eq!(missing.kind, Kind::MissingKey);
    assert!(missing.message.contains("MISTRAL_API_KEY") && missing.message.contains("MISTRAL_BASE_URL"));
    // With a server of the user's own, none is needed.
    let reading = read(&provider_at(&server.url, Arc::new(NoKey)), &path, MODEL).await.unwrap();
    assert_eq!(reading.pages.len(), 2);
    assert_eq!(server.seen().last().unwrap().header("authorization"), None);
}
