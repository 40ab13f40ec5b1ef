//! Public documents over HTTP: one bounded download, straight into a file or as bytes.

use std::future::{Future, ready};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::TryFutureExt;
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, ClientBuilder, Url};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::fault::Fault;
use super::http::{builder, chain};
use super::redact;
use super::retry::RetryPolicy;

/// How many redirections are followed.
const REDIRECTIONS: usize = 5;
/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// What a download may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The largest document, in bytes.
    pub bytes: u64,
    /// Seconds for the whole of it, all tries together.
    pub seconds: f64,
    /// When and how often a failed try is made again.
    pub retry: RetryPolicy,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 100 << 20,
            seconds: 120.0,
            retry: RetryPolicy { max_tries: 3, ..RetryPolicy::default() },
        }
    }
}

/// A document that has arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fetched {
    /// The address it came from in the end.
    pub url: String,
    /// Its size.
    pub bytes: u64,
    /// What the server calls it.
    pub content_type: String,
    /// Its BLAKE3 hash in hexadecimal.
    pub hash: String,
}

/// Why a document did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Missed {
    /// What was expected, what came and what to do.
    pub message: String,
    /// Whether there is no such document, as the server says: another address may have it.
    pub absent: bool,
}

impl From<String> for Missed {
    fn from(message: String) -> Self {
        Self { message, absent: false }
    }
}

/// Gets `url` into the file `target`, which is there only when all of it has arrived.
///
/// Only `http` and `https` are spoken, redirections included, and none leads from `https` to `http`.
///
/// # Errors
/// [`Missed`]: the document did not arrive, or cannot be written.
pub async fn fetch(url: &str, target: &Path, bounds: Bounds) -> Result<Fetched, Missed> {
    let part = beside(target);
    let create = || File::create(part.0.clone()).map_err(|error| unwritten(&part.0, &error));
    let (fetched, _) = arrive(url, bounds, create).await?;
    tokio::fs::rename(&part.0, target).await.map_err(|e| unwritten(target, &e))?;
    Ok(fetched)
}

/// Gets the bytes of `url`, by the same rules as [`fetch`].
///
/// # Errors
/// [`Missed`]: the document did not arrive.
pub async fn fetch_bytes(url: &str, bounds: Bounds) -> Result<Vec<u8>, Missed> {
    let (_, bytes) = arrive(url, bounds, || ready(Ok(Vec::new()))).await?;
    Ok(bytes)
}

/// Gets `url` into what `open` gives for each try.
async fn arrive<S, F>(url: &str, bounds: Bounds, open: impl Fn() -> F) -> Result<(Fetched, S), Missed>
where
    S: AsyncWrite + Unpin,
    F: Future<Output = Result<S, String>>,
{
    let address = address(url)?;
    let client = client(&address)?;
    let shown = redact::address(address.as_str());
    let tries = async {
        let mut failed = 0;
        loop {
            let mut sink = open().await?;
            let fault = match once(&client, &address, &mut sink, bounds.bytes).await {
                Ok(fetched) => return Ok((fetched, sink)),
                Err(fault) => fault,
            };
            failed += 1;
            let wait =
                fault.wait.unwrap_or_else(|| bounds.retry.backoff(failed, fault.crowded, fastrand::f64()));
            if !fault.retry || failed >= bounds.retry.max_tries || wait > bounds.retry.longest_asked {
                let message = format!("{shown} could not be downloaded: {}", fault.what);
                return Err(Missed { message, absent: matches!(fault.status, Some(404 | 410)) });
            }
            sleep(wait).await;
        }
    };
    let limit = super::retry::seconds(bounds.seconds)
        .ok_or_else(|| format!("a limit of {} s is no number of seconds above 0", bounds.seconds))?;
    let late = || format!("{shown} was not downloaded within {} s; allow more time", bounds.seconds);
    timeout(limit, tries).await.unwrap_or_else(|_| Err(late().into()))
}

/// A file that goes unless it was renamed, also when the download is given up.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn address(url: &str) -> Result<Url, String> {
    let address = Url::parse(url.trim()).map_err(|e| format!("{url:?} is no address: {e}"))?;
    if matches!(address.scheme(), "http" | "https") {
        return Ok(address);
    }
    Err(format!(
        "{url:?} cannot be downloaded: expected an address of http or https, not {}",
        address.scheme()
    ))
}

fn beside(target: &Path) -> Part {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}.part", fastrand::u32(..)));
    Part(target.with_file_name(name))
}

fn unwritten(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

/// A client of its own: unlike calls of models, downloads follow redirections.
fn client(url: &Url) -> Result<Client, String> {
    static CLIENT: OnceLock<Result<Client, String>> = OnceLock::new();
    static PLAIN: OnceLock<Result<Client, String>> = OnceLock::new();
    let build = |builder: ClientBuilder| {
        let client = builder.redirect(Policy::custom(follow)).build();
        client.map_err(|e| format!("cannot set up HTTP: {}", chain(&e)))
    };
    match CLIENT.get_or_init(|| build(builder())) {
        // Without certificates of the system, servers spoken to without TLS still answer.
        Err(_) if url.scheme() == "http" => PLAIN.get_or_init(|| build(builder().tls_certs_only([]))).clone(),
        client => client.clone(),
    }
}

fn follow(attempt: Attempt<'_>) -> Action {
    let secure = attempt.previous().first().is_some_and(|url| url.scheme() == "https");
    let why = match attempt.url().scheme() {
        _ if attempt.previous().len() > REDIRECTIONS => {
            format!("it was redirected more than {REDIRECTIONS} times")
        }
        "https" => return attempt.follow(),
        "http" if !secure => return attempt.follow(),
        _ => astray(attempt.url().as_str()),
    };
    attempt.error(why)
}

fn astray(to: &str) -> String {
    let to = redact::address(to);
    format!("it was redirected to {to}; only http and https are followed, and from https only https")
}

async fn once(
    client: &Client,
    address: &Url,
    sink: &mut (impl AsyncWrite + Unpin),
    limit: u64,
) -> Result<Fetched, Fault> {
    let silent = || Fault::stalled(format!("it was silent for {} s", SILENCE.as_secs()));
    let response = timeout(SILENCE, client.get(address.clone()).send()).await.map_err(|_| silent())?;
    let mut response = response.map_err(|error| {
        if error.is_redirect() { Fault::bad_request(chain(&error)) } else { Fault::connection(chain(&error)) }
    })?;
    let status = response.status();
    if status.is_redirection() {
        // The client itself stops at addresses it does not speak.
        let to = response.headers().get("location").and_then(|v| v.to_str().ok()).unwrap_or("nowhere");
        return Err(Fault::bad_request(astray(to)));
    }
    if !status.is_success() {
        return Err(Fault::of_status(status.as_u16(), response.headers(), b"", None));
    }
    let too_large = || Fault::bad_request(format!("it is larger than the {limit} bytes that are allowed"));
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let lost = |error: std::io::Error| Fault::bad_request(format!("it cannot be written: {error}"));
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0_u64);
    loop {
        let chunk = timeout(SILENCE, response.chunk()).await.map_err(|_| silent())?;
        let Some(chunk) = chunk.map_err(|error| Fault::connection(chain(&error)))? else { break };
        bytes += chunk.len() as u64;
        if bytes > limit {
            return Err(too_large());
        }
        hasher.update(&chunk);
        sink.write_all(&chunk).await.map_err(lost)?;
    }
    sink.flush().await.map_err(lost)?;
    let content_type =
        response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    Ok(Fetched {
        url: response.url().to_string(),
        bytes,
        content_type: content_type.to_owned(),
        hash: hasher.finalize().to_hex().to_string(),
    })
}
