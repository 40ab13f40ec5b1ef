//! Documentation that says what a test tells it to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::{Document, Documents, Home};

/// Answers by library, and remembers what it was asked; libraries it was told nothing of are offline.
#[derive(Debug, Default)]
pub struct ScriptedDocuments {
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Script {
    /// Library → its text; `None` where the site never answers.
    texts: HashMap<String, Option<String>>,
    asked: Vec<(String, Option<String>)>,
}

impl ScriptedDocuments {
    /// The documentation of `library` is this text.
    pub fn holds(&self, library: &str, text: &str) -> &Self {
        self.with(|script| script.texts.insert(library.into(), Some(text.into())));
        self
    }

    /// The site of `library` never answers.
    pub fn hangs(&self, library: &str) -> &Self {
        self.with(|script| script.texts.insert(library.into(), None));
        self
    }

    /// What was asked for: libraries with the versions.
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        self.with(|script| script.asked.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Script) -> T) -> T {
        act(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner))
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
            let text = self.with(|script| {
                script.asked.push((home.library.to_owned(), version.map(str::to_owned)));
                script.texts.get(home.library).cloned()
            });
            match text {
                None => Err("the network is down".to_owned()),
                Some(None) => std::future::pending().await,
                Some(Some(text)) => {
                    let source = format!("version {}, scripted", version.unwrap_or("latest"));
                    Ok(Document { source, text, problem: None })
                }
            }
        })
    }
}
