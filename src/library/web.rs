//! Documentation from its site, kept in the user's cache directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::{Document, Documents, Home};
use crate::llm::fetch::{Bounds, Missed, fetch_bytes};
use crate::llm::retry::RetryPolicy;
use crate::llm::routing::Env;

/// Seconds a look at a site may take over all addresses.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes a documentation may have.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// Seconds after which what is kept is fetched anew: 30 days.
const FRESH_SECONDS: f64 = 30.0 * 86_400.0;

/// Documentation over HTTP, with a cache.
#[derive(Clone)]
pub struct WebDocuments {
    env: Env,
    /// How long a look may take.
    pub limit: Duration,
}

impl WebDocuments {
    /// Documentation from the sites, or from where variables of `env` say.
    pub fn new(env: Env) -> Self {
        Self { env, limit: LIMIT }
    }

    fn set(&self, name: &str) -> Option<String> {
        (self.env)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Where fetched texts are kept; `None` for users without a home.
    fn cache(&self) -> Option<PathBuf> {
        let home = || {
            self.set("HOME").or_else(|| self.set("USERPROFILE")).map(|home| Path::new(&home).join(".cache"))
        };
        let base =
            self.set("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home)?;
        Some(base.join("cmbagent").join("documentation"))
    }

    /// Where to look, in order, each with the version that is there; blank where an address names none.
    fn pages(&self, home: &Home, version: Option<&str>) -> Vec<(String, String)> {
        let addresses = match self.set(home.variable) {
            Some(address) => vec![address],
            None => home.addresses.iter().map(|address| (*address).to_owned()).collect(),
        };
        let mut pages = Vec::new();
        for address in addresses {
            let named = address.contains("{version}");
            let versions = if named { version.into_iter().chain(["latest"]).collect() } else { vec![""] };
            pages.extend(versions.into_iter().map(|v| (address.replace("{version}", v), v.to_owned())));
        }
        pages
    }

    async fn look(&self, home: &Home, version: Option<&str>, now: f64) -> Result<Document, String> {
        let cache = self.cache();
        let mut why = Vec::new();
        for (url, version) in self.pages(home, version) {
            let kept = cache.as_ref().map(|cache| cache.join(file_name(home.library, &url)));
            let source = match version.as_str() {
                "" => url.clone(),
                "latest" => format!("latest version, {url}"),
                version => format!("version {version}, {url}"),
            };
            let document = |text: String| Document { source, text, problem: None };
            if let Some(text) = kept.as_deref().and_then(|path| read(path, now - FRESH_SECONDS)) {
                return Ok(document(text));
            }
            match get(&url).await {
                Ok(text) => {
                    if let Some(path) = &kept {
                        // A cache that cannot be written only costs the next run a look.
                        let _ = keep(path, &text);
                    }
                    return Ok(document(text));
                }
                Err(missed) => {
                    // Better an old text of the right version than none, unless it is there no more.
                    let kept = kept.as_deref().filter(|_| !missed.absent);
                    if let Some(text) = kept.and_then(|path| read(path, f64::NEG_INFINITY)) {
                        return Ok(Document { problem: Some(missed.message), ..document(text) });
                    }
                    why.push(missed.message);
                }
            }
        }
        Err(why.join("; "))
    }
}

impl Documents for WebDocuments {
    fn fetch<'a>(
        &'a self,
        home: &'a Home,
        version: Option<&'a str>,
        now: f64,
    ) -> BoxFuture<'a, Result<Document, String>> {
        async move {
            let runtime =
                Handle::try_current().map_err(|e| format!("documentation needs a tokio runtime: {e}"))?;
            let (this, home, version) = (self.clone(), *home, version.map(str::to_owned));
            let work = async move {
                let looked =
                    tokio::time::timeout(this.limit, this.look(&home, version.as_deref(), now)).await;
                looked.unwrap_or_else(|_| {
                    let seconds = this.limit.as_secs_f64();
                    Err(format!("the documentation of {} did not come within {seconds} s", home.library))
                })
            };
            AbortOnDropHandle::new(runtime.spawn(work))
                .await
                .map_err(|e| format!("the look at the documentation broke off: {e}"))?
        }
        .boxed()
    }
}

async fn get(url: &str) -> Result<String, Missed> {
    // One try: there is another address, a kept text, or the docstrings.
    let retry = RetryPolicy { max_tries: 1, ..RetryPolicy::default() };
    let bytes = fetch_bytes(url, Bounds { bytes: MOST_BYTES, retry, ..Bounds::default() }).await?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let start: String = text.trim_start().chars().take(15).collect::<String>().to_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return Err(format!("{url}: a web page came; expected the documentation as text or Markdown").into());
    }
    if text.trim().is_empty() {
        return Err(format!("{url}: the page is empty").into());
    }
    Ok(text)
}

fn file_name(library: &str, url: &str) -> String {
    format!("{library}-{}.md", &blake3::hash(url.as_bytes()).to_hex()[..16])
}

/// What is kept, unless it was written before `since` (seconds since 1970).
fn read(path: &Path, since: f64) -> Option<String> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    let age = modified.duration_since(UNIX_EPOCH).map_or(0.0, |at| at.as_secs_f64());
    if age < since { None } else { std::fs::read_to_string(path).ok() }
}

/// Writes a text whole or not at all; only the user can read it.
fn keep(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)?;
    let draft = directory.join(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn addresses_without_a_version_are_tried_one_after_the_other() {
        let web = WebDocuments::new(Arc::new(|_| None));
        let pages = |library: &str, version| {
            let home = super::super::home(library).expect("a library of the table");
            web.pages(home, version).into_iter().map(|(_, version)| version).collect::<Vec<_>>()
        };
        assert_eq!(pages("camb", Some("1.6.0")), ["1.6.0", "latest"]);
        assert_eq!(pages("camb", None), ["latest"]);
        assert_eq!(pages("classy", Some("3.3")), ["", ""]);
    }
}
