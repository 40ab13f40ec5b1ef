//! Reading a PDF with Mistral's model for documents: pages come back as Markdown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::fault::Fault;
use super::http::{HttpProvider, chain, client};
use super::redact::{quote, redact};
use super::{LlmError, LlmErrorKind, Message, Place, Request};

/// The model that reads PDFs unless told otherwise.
pub const MODEL: &str = "mistral-ocr-latest";
/// The name its key is stored under.
pub const KEY: &str = "MISTRAL";
const KEY_VAR: &str = "MISTRAL_API_KEY";
const BASE_VAR: &str = "MISTRAL_BASE_URL";
const HOME: &str = "https://api.mistral.ai";
/// The largest document that the service takes, in bytes.
const LARGEST: u64 = 50 << 20;
/// The longest answer that is read, in bytes.
const LONGEST: usize = 64 << 20;
/// How long the reading of one document may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A PDF that a model is to read.
#[derive(Debug, Clone)]
pub struct Paper {
    /// The file.
    pub path: PathBuf,
    /// What is asked, as it is recorded: the model, and as text the file's name and the hash of what is in it.
    pub request: Request,
    /// Where in the run it is read.
    pub place: Place,
}

impl Paper {
    /// The PDF at `path`, wherever it may lie in another run.
    pub async fn new(path: &Path, model: &str, place: Place) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = match tokio::fs::read(path).await {
            Ok(bytes) => format!("blake3:{}", blake3::hash(&bytes).to_hex()),
            // Whoever reads it says so; a tape does without.
            Err(error) => error.to_string(),
        };
        let messages = vec![Message::user(format!("{name}: {content}"))];
        Self {
            path: path.into(),
            request: Request { model: model.into(), messages, ..Request::default() },
            place,
        }
    }
}

/// What was read in a PDF.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The pages as Markdown, in order.
    pub pages: Vec<String>,
    /// The pages that are billed.
    pub pages_processed: u64,
    /// The document's size as the service counts it.
    pub doc_size_bytes: u64,
    /// Dollars, when the price is known.
    pub cost: Option<f64>,
}

/// Where a document is sent, and with which key.
pub(super) struct Service {
    url: String,
    key: Option<SecretString>,
}

impl HttpProvider {
    /// Reads a PDF; see [`super::Provider::read_pdf`].
    pub(super) async fn ocr(
        self,
        service: Service,
        path: PathBuf,
        model: String,
    ) -> Result<Reading, LlmError> {
        let fail = |kind, message: String, status| LlmError { kind, message, status, model: model.clone() };
        let bad = |message| fail(LlmErrorKind::BadRequest, message, None);
        let shown = path.display().to_string();
        let size =
            tokio::fs::metadata(&path).await.map_err(|e| bad(format!("{shown} cannot be read: {e}")))?;
        if size.len() > LARGEST {
            return Err(bad(format!(
                "{shown} has {} bytes; the service takes {LARGEST}: split it",
                size.len()
            )));
        }
        let pdf = tokio::fs::read(&path).await.map_err(|e| bad(format!("{shown} cannot be read: {e}")))?;
        let body = json!({
            "model": model,
            "document": {
                "type": "document_url",
                "document_url": format!("data:application/pdf;base64,{}", STANDARD.encode(pdf)),
            },
            "include_image_base64": false,
        });
        let client = client(&service.url).map_err(|m| fail(LlmErrorKind::Connection, m, None))?;
        let mut tries = 0;
        let value = loop {
            tries += 1;
            let fault = match once(&client, &service, &body).await {
                Ok(value) => break value,
                Err(fault) => fault,
            };
            let wait =
                fault.wait.unwrap_or_else(|| self.retry.backoff(tries, fault.crowded, fastrand::f64()));
            if !fault.retry || tries >= self.retry.max_tries || wait > self.retry.longest_asked {
                let what = format!("{model} could not read {shown}: {}", fault.what);
                return Err(fail(fault.kind, redact(&what, service.key.as_ref()), fault.status));
            }
            sleep(wait).await;
        };
        let mut reading = understood(&value).ok_or_else(|| {
            let said = quote(&value.to_string(), service.key.as_ref(), 300);
            fail(LlmErrorKind::BadReply, format!("{model} gave no pages of {shown}: {said}"), None)
        })?;
        reading.cost = self.prices().page_cost(&model, reading.pages_processed);
        Ok(reading)
    }

    /// Only this service's key is asked for, and none is needed with a base URL of the user's.
    pub(super) fn ocr_service(&self, model: &str) -> Result<Service, LlmError> {
        let base = (self.env)(BASE_VAR).map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
        let key = self.keys.get(KEY).filter(|key| !key.expose_secret().trim().is_empty());
        if base.is_none() && key.is_none() {
            return Err(LlmError {
                kind: LlmErrorKind::MissingKey,
                message: format!(
                    "model {model} needs a key: set {KEY_VAR} (or pass api_keys={{\"{KEY}\": …}}); \
                     for a gateway set {BASE_VAR} instead"
                ),
                status: None,
                model: model.to_owned(),
            });
        }
        let base = base.unwrap_or_else(|| HOME.into());
        Ok(Service { url: format!("{}/v1/ocr", base.trim_end_matches('/')), key })
    }
}

async fn once(client: &reqwest::Client, service: &Service, body: &Value) -> Result<Value, Fault> {
    let request = client.post(&service.url).headers(headers(service)?).body(body.to_string());
    let silent = || Fault::stalled(format!("it did not answer within {} s", PATIENCE.as_secs()));
    let whole = async {
        let mut response = request.send().await.map_err(|e| Fault::connection(chain(&e)))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| Fault::connection(chain(&e)))? {
            answer.extend_from_slice(&chunk);
            if answer.len() > LONGEST {
                return Err(Fault::bad_request(format!("its answer is longer than {LONGEST} bytes")));
            }
        }
        if !status.is_success() {
            return Err(Fault::of_status(status.as_u16(), &headers, &answer, service.key.as_ref()));
        }
        serde_json::from_slice(&answer).map_err(|_| {
            let said = quote(&String::from_utf8_lossy(&answer), service.key.as_ref(), 300);
            Fault::bad_reply(format!("expected JSON, got: {said}"))
        })
    };
    timeout(PATIENCE, whole).await.map_err(|_| silent())?
}

fn headers(service: &Service) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = &service.key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret().trim()))
            .map_err(|_| Fault::bad_request(format!("the key {KEY} holds characters that no key has")))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// What the answer says; `None` when it holds no pages.
fn understood(value: &Value) -> Option<Reading> {
    let pages = value.get("pages")?.as_array()?;
    let count =
        |name: &str| value.get("usage_info").and_then(|usage| usage.get(name)).and_then(Value::as_u64);
    Some(Reading {
        pages: pages
            .iter()
            .map(|page| page.get("markdown").and_then(Value::as_str).unwrap_or_default().to_owned())
            .collect(),
        pages_processed: count("pages_processed").unwrap_or(pages.len() as u64),
        doc_size_bytes: count("doc_size_bytes").unwrap_or_default(),
        cost: None,
    })
}
