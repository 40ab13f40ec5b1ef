//! Documentation that says what a test tells it to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::{Document, Documents, Home};

/// Answers by library, and remembers what it was asked; libraries it was told nothing of are offline.
#[derive(Debug, Default)]
pub struct ScriptedDocuments {
    texts: Mutex<HashMap<String, String>>,
    asked: Mutex<Vec<(String, Option<String>)>>,
}

impl ScriptedDocuments {
    /// The documentation of `library` is this text.
    pub fn holds(&self, library: &str, text: &str) -> &Self {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).insert(library.into(), text.into());
        self
    }

    /// What was asked for: libraries with the versions.
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Documents for ScriptedDocuments {
    fn fetch<'a>(
        &'a self,
        home: &'a Home,
        version: Option<&'a str>,
        _: f64,
    ) -> BoxFuture<'a, Result<Document, String>> {
        Box::pin(async move {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push((home.library.to_owned(), version.map(str::to_owned)));
            let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
            let text = texts.get(home.library).cloned().ok_or("the network is down")?;
            let source = format!("version {}, scripted", version.unwrap_or("latest"));
            Ok(Document { source, text, problem: None })
        })
    }
}
