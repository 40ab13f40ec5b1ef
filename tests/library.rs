//! Documentation from its site, against a server on this machine.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cmbagent::library::{Document, Documents, WebDocuments, home};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

type Pages = Arc<Mutex<HashMap<String, String>>>;

/// A site: path → whole HTTP response; a path that is not there hangs up, one with a blank response hangs.
struct Site {
    base: String,
    pages: Pages,
    asked: Arc<Mutex<Vec<String>>>,
    cache: tempfile::TempDir,
}

fn page(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len())
}

impl Site {
    async fn start(pages: &[(&str, String)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let pages: Pages = Arc::new(Mutex::new(
            pages.iter().map(|(path, text)| ((*path).to_owned(), text.clone())).collect(),
        ));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (shown, seen) = (pages.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shown, seen) = (shown.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut first = String::new();
                    stream.read_line(&mut first).await.unwrap();
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    seen.lock().unwrap().push(path.clone());
                    let response = shown.lock().unwrap().get(&path).cloned();
                    match response {
                        Some(text) if text.is_empty() => std::future::pending().await,
                        Some(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                        None => {}
                    }
                });
            }
        });
        Self { base, pages, asked, cache: tempfile::tempdir().unwrap() }
    }

    fn documents(&self, address: &str) -> WebDocuments {
        let (address, cache) = (format!("{}{address}", self.base), self.cache.path().display().to_string());
        WebDocuments::new(Arc::new(move |name| match name {
            "CMBAGENT_CAMB_DOCS" => Some(address.clone()),
            "XDG_CACHE_HOME" => Some(cache.clone()),
            _ => None,
        }))
    }

    async fn fetch(&self, version: Option<&str>) -> Result<Document, String> {
        self.documents("/{version}/camb.md").fetch(home("camb").unwrap(), version, now()).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn set(&self, path: &str, response: String) {
        self.pages.lock().unwrap().insert(path.into(), response);
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn the_installed_version_comes_first_and_is_kept() {
    let site = Site::start(&[("/1.6.0/camb.md", page("200 OK", "", "# CAMB 1.6.0 é"))]).await;
    let first = site.fetch(Some("1.6.0")).await.unwrap();
    assert_eq!((first.text.as_str(), first.problem.as_ref()), ("# CAMB 1.6.0 é", None));
    assert_eq!(first.source, format!("version 1.6.0, {}/1.6.0/camb.md", site.base));
    assert_eq!(site.asked(), ["/1.6.0/camb.md"]);
    assert_eq!(site.fetch(Some("1.6.0")).await.unwrap(), first);
    assert!(site.asked().is_empty(), "what is kept is not fetched again");

    let kept = files(&site.cache.path().join("cmbagent/documentation"));
    assert_eq!(kept.len(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(kept[0].parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "only the user's");
    }
    let web = site.documents("/{version}/camb.md");
    let later = now() + 31.0 * 86_400.0;
    site.set("/1.6.0/camb.md", page("200 OK", "", "# CAMB, corrected"));
    let fetch = |at| web.fetch(cmbagent::library::home("camb").unwrap(), Some("1.6.0"), at);
    assert_eq!(fetch(later).await.unwrap().text, "# CAMB, corrected", "after 30 days it is fetched anew");
}

#[tokio::test]
async fn another_version_serves_where_the_installed_one_is_not_there() {
    let missing = page("404 Not Found", "", "no");
    let site = Site::start(&[
        ("/9.9/camb.md", missing.clone()),
        ("/latest/camb.md", page("200 OK", "", "# Newest")),
    ])
    .await;
    let found = site.fetch(Some("9.9")).await.unwrap();
    assert_eq!(found.text, "# Newest");
    assert!(found.source.starts_with("latest version, http://"), "{}", found.source);
    assert_eq!(site.asked(), ["/9.9/camb.md", "/latest/camb.md"]);
    site.fetch(None).await.unwrap();
    assert!(site.asked().is_empty(), "the same text, already kept");

    let empty = Site::start(&[("/9.9/camb.md", missing.clone()), ("/latest/camb.md", missing)]).await;
    let why = empty.fetch(Some("9.9")).await.unwrap_err();
    let said = "could not be downloaded: it answered 404";
    assert!(why.contains(&format!("/9.9/camb.md {said}")), "{why}");
    assert!(why.contains(&format!("/latest/camb.md {said}")), "{why}");
}

#[tokio::test]
async fn an_old_text_serves_when_the_site_is_down() {
    let site = Site::start(&[("/1.6.0/camb.md", page("200 OK", "", "# CAMB"))]).await;
    site.fetch(Some("1.6.0")).await.unwrap();
    site.set("/1.6.0/camb.md", page("503 Service Unavailable", "", "later"));
    let web = site.documents("/{version}/camb.md");
    let later = now() + 31.0 * 86_400.0;
    let old = web.fetch(cmbagent::library::home("camb").unwrap(), Some("1.6.0"), later).await.unwrap();
    assert_eq!(old.text, "# CAMB");
    assert!(old.problem.unwrap().contains("it answered 503"));
}

#[tokio::test]
async fn redirects_are_followed_and_web_pages_are_no_documentation() {
    let moved = page("302 Found", "Location: /real.md\r\n", "");
    let site = Site::start(&[("/latest/camb.md", moved), ("/real.md", page("200 OK", "", "# Real"))]).await;
    assert_eq!(site.fetch(None).await.unwrap().text, "# Real");
    for (body, word) in [("<!DOCTYPE html><p>", "a web page came"), (" \n", "empty")] {
        let site = Site::start(&[("/latest/camb.md", page("200 OK", "", body))]).await;
        assert!(site.fetch(None).await.unwrap_err().contains(word));
    }
    let circle =
        Site::start(&[("/latest/camb.md", page("302 Found", "Location: /latest/camb.md\r\n", ""))]).await;
    assert!(circle.fetch(None).await.unwrap_err().contains("redirected more than 5 times"));
}

#[tokio::test]
async fn a_site_that_says_nothing_is_given_up_at_the_limit() {
    let site = Site::start(&[("/latest/camb.md", String::new())]).await;
    let mut web = site.documents("/{version}/camb.md");
    assert_eq!(web.limit, Duration::from_secs(30));
    web.limit = Duration::from_millis(50);
    let why = web.fetch(cmbagent::library::home("camb").unwrap(), None, now()).await.unwrap_err();
    assert_eq!(why, "the documentation of camb did not come within 0.05 s");
    let gone = Site::start(&[]).await;
    assert!(gone.fetch(None).await.unwrap_err().contains("/latest/camb.md could not be downloaded: "));
}
