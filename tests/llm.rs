//! Models over HTTP against a server on the loopback that misbehaves on request.
#![allow(clippy::unwrap_used)]

#[path = "llm/dialects.rs"]
mod dialects;
#[path = "llm/documents.rs"]
mod documents;
#[path = "llm/faults.rs"]
mod faults;
#[path = "llm/golden.rs"]
mod golden;
#[path = "llm/limits.rs"]
mod limits;
#[path = "llm/server.rs"]
mod server;
