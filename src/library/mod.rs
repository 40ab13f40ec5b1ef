//! Documentation of libraries, for the agents that read it.
//!
//! * The port: [`Documents`]. Implementations: [`web`] (sites, with a cache), [`scripted`] (tests).

pub mod scripted;
pub mod web;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use scripted::ScriptedDocuments;
pub use web::WebDocuments;

/// Where a library's documentation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The library, as it is imported and as its package is called.
    pub library: &'static str,
    /// Addresses of the documentation as one text, the likeliest first; `{version}` stands for a version
    /// or `latest`.
    pub addresses: &'static [&'static str],
    /// The variable that names another address in their place.
    pub variable: &'static str,
}

const HOMES: [Home; 2] = [
    Home {
        library: "camb",
        addresses: &["https://camb.readthedocs.io/en/{version}/_static/camb_docs_combined.md"],
        variable: "CMBAGENT_CAMB_DOCS",
    },
    Home {
        library: "classy",
        addresses: &[
            "https://raw.githubusercontent.com/santiagocasas/clapp/main/class-data/classy_docs.md",
            "https://raw.githubusercontent.com/santiagocasas/clapp/main/classy_docs.md",
        ],
        variable: "CMBAGENT_CLASSY_DOCS",
    },
];

/// The site of a library's documentation.
pub fn home(library: &str) -> Option<&'static Home> {
    HOMES.iter().find(|home| home.library == library)
}

/// A documentation that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// What it is, in words: `version 1.6.0, https://…`.
    pub source: String,
    /// The text; blank when none could be had.
    pub text: String,
    /// Why it is not the site's, when it is not.
    pub problem: Option<String>,
}

/// The port through which the engine reaches documentation.
pub trait Documents: Send + Sync {
    /// The documentation at `home`, if possible that of `version`; the error says why there is none.
    ///
    /// `now` is in seconds since 1970. Dropping the future abandons the look.
    fn fetch<'a>(
        &'a self,
        home: &'a Home,
        version: Option<&'a str>,
        now: f64,
    ) -> BoxFuture<'a, Result<Document, String>>;
}
