//! What models cost, how much they read and how much they can answer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use super::Usage;

/// The variable that names a TOML file of the user's own rows.
pub const PRICES_VAR: &str = "CMBAGENT_PRICES";

const BUILTIN: &str = include_str!("pricing.toml");

/// One row of the table. What it leaves out is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelFacts {
    /// Dollars per million prompt tokens.
    pub input: Option<f64>,
    /// Dollars per million answer tokens, reasoning included.
    pub output: Option<f64>,
    /// Dollars per million prompt tokens read from the provider's cache; else `input`.
    pub cached: Option<f64>,
    /// Dollars per million prompt tokens written to the provider's cache; else `input`.
    pub cache_write: Option<f64>,
    /// The longest prompt in tokens.
    pub window: Option<u32>,
    /// The longest answer in tokens.
    pub max_output: Option<u32>,
    /// Prompts longer than this many tokens cost the `long_*` prices.
    pub long_from: Option<u64>,
    /// `input` for long prompts.
    pub long_input: Option<f64>,
    /// `output` for long prompts.
    pub long_output: Option<f64>,
    /// `cached` for long prompts.
    pub long_cached: Option<f64>,
    /// `false` when the model refuses temperature and top_p.
    pub sampling: Option<bool>,
    /// Whether the model takes pictures.
    pub vision: Option<bool>,
}

impl ModelFacts {
    /// Dollars for `usage`, of whose prompt `cache_writes` tokens were written to the provider's cache.
    pub(crate) fn cost(&self, usage: &Usage, cache_writes: u64) -> Option<f64> {
        let long = self.long_from.is_some_and(|from| usage.prompt_tokens > from);
        let pick =
            |long_price: Option<f64>, price: Option<f64>| if long { long_price.or(price) } else { price };
        let input = pick(self.long_input, self.input)?;
        let output = pick(self.long_output, self.output)?;
        let cached = pick(self.long_cached, self.cached).unwrap_or(input);
        let write = if long { None } else { self.cache_write }.unwrap_or(input);
        let plain = usage.prompt_tokens.saturating_sub(usage.cached_tokens).saturating_sub(cache_writes);
        let million = tokens(plain) * input
            + tokens(usage.cached_tokens) * cached
            + tokens(cache_writes) * write
            + tokens(usage.completion_tokens) * output;
        Some(million / 1e6)
    }

    /// This row, with what it leaves out taken from `below`.
    fn over(self, below: Self) -> Self {
        Self {
            input: self.input.or(below.input),
            output: self.output.or(below.output),
            cached: self.cached.or(below.cached),
            cache_write: self.cache_write.or(below.cache_write),
            window: self.window.or(below.window),
            max_output: self.max_output.or(below.max_output),
            long_from: self.long_from.or(below.long_from),
            long_input: self.long_input.or(below.long_input),
            long_output: self.long_output.or(below.long_output),
            long_cached: self.long_cached.or(below.long_cached),
            sampling: self.sampling.or(below.sampling),
            vision: self.vision.or(below.vision),
        }
    }
}

// Such counts stay far below 2^52, where a float is exact.
#[allow(clippy::cast_precision_loss)]
fn tokens(n: u64) -> f64 {
    n as f64
}

/// Why a table of prices could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PricesError {
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    models: HashMap<String, ModelFacts>,
    /// Dollars per thousand pages.
    #[serde(default)]
    pages: HashMap<String, f64>,
}

/// The table of models: the built-in rows under the user's own.
#[derive(Debug, Clone)]
pub struct Prices {
    rows: HashMap<String, ModelFacts>,
    pages: HashMap<String, f64>,
}

impl Prices {
    /// The built-in rows, read once a process.
    pub fn builtin() -> Self {
        static ROWS: LazyLock<Prices> = LazyLock::new(|| {
            let table: Table = toml::from_str(BUILTIN).expect("the built-in table is checked by a test");
            Prices { rows: table.models, pages: table.pages }
        });
        ROWS.clone()
    }

    /// The built-in rows, with those of the file that `CMBAGENT_PRICES` names on top.
    ///
    /// Fails when the file cannot be read or is not a table of this form.
    pub fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, PricesError> {
        let prices = Self::builtin();
        match env(PRICES_VAR).filter(|path| !path.trim().is_empty()) {
            Some(path) => prices.with_file(Path::new(path.trim())),
            None => Ok(prices),
        }
    }

    /// This table with the rows of a TOML file on top.
    pub fn with_file(self, path: &Path) -> Result<Self, PricesError> {
        let text = std::fs::read_to_string(path).map_err(|e| PricesError {
            message: format!(
                "cannot read the prices in {} ({e}); correct or unset {PRICES_VAR}",
                path.display()
            ),
        })?;
        self.with_toml(&text).map_err(|e| PricesError {
            message: format!("{} is not a table of prices: {}", path.display(), e.message),
        })
    }

    /// This table with rows of TOML text on top; what a row leaves out keeps its value.
    pub fn with_toml(mut self, text: &str) -> Result<Self, PricesError> {
        let unusable = |why: String| PricesError {
            message: format!(
                "expected rows such as `[models]` followed by \
                 `\"my-model\" = {{ input = 1.0, output = 2.0, window = 32768 }}`: {why}"
            ),
        };
        let table: Table = toml::from_str(text).map_err(|e| unusable(e.to_string()))?;
        if table.models.is_empty() && table.pages.is_empty() {
            return Err(unusable("there are none, neither under [models] nor under [pages]".into()));
        }
        for (name, row) in table.models {
            let below = self.facts(&name).unwrap_or_default();
            self.rows.insert(name.to_lowercase(), row.over(below));
        }
        self.pages.extend(table.pages);
        Ok(self)
    }

    /// What is known of `model`: its own row, else its family's when only a date sets it apart.
    ///
    /// A `provider/` in front does not matter. Unknown names give `None`, never a guess.
    pub fn facts(&self, model: &str) -> Option<ModelFacts> {
        let name = model.trim().to_lowercase();
        if let Some(row) = self.rows.get(&name) {
            return Some(*row);
        }
        let name = bare(&name);
        self.rows.get(&name).copied().or_else(|| self.longest(&name, is_date))
    }

    /// What is known of the closest relative of `model`, such as `claude-fable-5` of `claude-fable-5-2`:
    /// a guess, good enough for a limit that the server corrects, and never used for prices.
    pub fn relative(&self, model: &str) -> Option<ModelFacts> {
        self.longest(&bare(&model.trim().to_lowercase()), |rest| {
            rest.is_empty() || rest.starts_with(['-', '@', '.'])
        })
    }

    /// The row with the longest name that `name` begins with, of those whose rest passes.
    fn longest(&self, name: &str, passes: impl Fn(&str) -> bool) -> Option<ModelFacts> {
        let families =
            self.rows.iter().filter(|(family, _)| name.strip_prefix(family.as_str()).is_some_and(&passes));
        families.max_by_key(|(family, _)| family.len()).map(|(_, row)| *row)
    }

    /// Dollars for `usage` of `model`; `None` when its prices are unknown.
    pub fn cost(&self, model: &str, usage: &Usage) -> Option<f64> {
        self.cost_with_writes(model, usage, 0)
    }

    /// [`Prices::cost`], when `cache_writes` of the prompt's tokens were written to the provider's cache.
    pub fn cost_with_writes(&self, model: &str, usage: &Usage, cache_writes: u64) -> Option<f64> {
        self.facts(model)?.cost(usage, cache_writes)
    }

    /// Dollars for so many pages that `model` read; `None` when its price is unknown.
    pub fn page_cost(&self, model: &str, pages: u64) -> Option<f64> {
        Some(tokens(pages) / 1e3 * self.pages.get(model)?)
    }
}

impl Prices {
    /// The longest prompt `model` takes in tokens, when known.
    pub fn window(&self, model: &str) -> Option<u32> {
        self.facts(model)?.window
    }

    /// Whether `model` takes pictures, when known.
    pub fn vision(&self, model: &str) -> Option<bool> {
        self.facts(model)?.vision
    }

    /// The most tokens `model` can answer with, when known.
    pub fn max_output(&self, model: &str) -> Option<u32> {
        self.facts(model)?.max_output
    }
}

/// A name without `provider/`, and with the maker's spelling where gateways write `claude-opus-4.1`.
fn bare(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    if name.starts_with("claude") { name.replace('.', "-") } else { name.to_owned() }
}

/// Whether what follows a family's name only says which release of it is meant:
/// `-2025-04-14`, `-20250929`, `@20250929`, `-0613`, `-001`, `-preview-05-06`, `-latest`.
fn is_date(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix(['-', '@']) else { return false };
    rest.split('-').all(|word| {
        matches!(word, "latest" | "preview" | "exp" | "default")
            || (word.len() >= 2 && word.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    fn usage(prompt: u64, completion: u64, cached: u64) -> Usage {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            cached_tokens: cached,
            ..Usage::default()
        }
    }

    #[test]
    fn dated_and_prefixed_names_resolve_to_their_family() {
        let prices = Prices::builtin();
        let family = prices.facts("gpt-4.1").unwrap();
        for name in
            ["gpt-4.1-2025-04-14", "openai/gpt-4.1", "GPT-4.1", "openrouter/openai/gpt-4.1-2025-04-14"]
        {
            assert_eq!(prices.facts(name), Some(family), "{name}");
        }
        assert_eq!(prices.facts("o3-mini-2025-01-31"), prices.facts("o3-mini"));
        assert_ne!(prices.facts("gpt-4.1-mini-2025-04-14"), Some(family));
        assert_ne!(prices.facts("gpt-4o-2024-05-13"), prices.facts("gpt-4o-2024-11-20"));
        assert_eq!(prices.facts("claude-sonnet-4-5@20250929"), prices.facts("claude-sonnet-4-5"));
        assert_eq!(prices.facts("anthropic/claude-opus-4.1"), prices.facts("claude-opus-4-1"));
        assert!(prices.facts("claude-3.7-sonnet").is_some());
        assert_eq!(prices.facts("gemini-2.5-pro-preview-05-06"), prices.facts("gemini-2.5-pro"));
    }

    #[test]
    fn unknown_names_are_not_guessed() {
        let prices = Prices::builtin();
        for name in ["gpt-4.1x", "gpt-5-ultra", "claude-opus-4-5-9", "qwen3:30b", "gpt-oss-120b", ""] {
            assert_eq!(prices.facts(name), None, "{name}");
            assert_eq!(prices.cost(name, &usage(10, 10, 0)), None);
        }
        assert_eq!(prices.relative("claude-fable-5-9"), prices.facts("claude-fable-5"));
        assert_eq!(prices.relative("claude-sonnet-4-5-x"), prices.facts("claude-sonnet-4-5"));
        assert_eq!(prices.relative("claude-unheard-of"), None);
    }

    #[test]
    fn every_row_is_whole() {
        for (name, row) in &Prices::builtin().rows {
            assert!(row.input.unwrap() > 0.0 && row.output.unwrap() >= row.input.unwrap(), "{name}");
            assert!(row.window.unwrap() >= 8192 && row.max_output.unwrap() >= 4096, "{name}");
            assert_eq!(row.long_from.is_some(), row.long_input.is_some(), "{name}");
            assert!(row.vision.is_some(), "{name}");
        }
    }

    #[test]
    fn costs_count_cached_written_and_long_tokens() {
        let prices = Prices::builtin();
        assert_eq!(prices.cost("gpt-4.1", &usage(1_000_000, 500_000, 0)), Some(6.0));
        assert_eq!(prices.cost("gpt-4.1", &usage(1_000_000, 0, 1_000_000)), Some(0.5));
        let written = prices.cost_with_writes("claude-sonnet-4-5", &usage(100_000, 0, 0), 100_000).unwrap();
        assert!((written - 0.375).abs() < 1e-12);
        assert_eq!(prices.cost("gemini-2.5-pro", &usage(200_000, 0, 0)), Some(0.25));
        assert_eq!(prices.cost("gemini-2.5-pro", &usage(400_000, 0, 0)), Some(1.0));
    }

    #[test]
    fn the_users_rows_win_and_keep_what_they_leave_out() {
        let prices = Prices::builtin()
            .with_toml("[models]\n\"gpt-4.1\" = { input = 1.0 }\n\"qwen3:30b\" = { input = 0.0, output = 0.0, window = 32768 }")
            .unwrap();
        assert_eq!(prices.cost("gpt-4.1", &usage(1_000_000, 1_000_000, 0)), Some(9.0));
        assert_eq!(prices.window("qwen3:30b"), Some(32768));
        assert_eq!(prices.cost("qwen3:30b", &usage(5, 5, 0)), Some(0.0));
    }

    #[test]
    fn pages_have_prices_of_their_own() {
        let prices = Prices::builtin();
        assert_eq!(prices.page_cost("mistral-ocr-latest", 500), Some(2.0));
        assert_eq!(prices.page_cost("gpt-4.1", 500), None);
        let own = prices.with_toml("[pages]\n\"mistral-ocr-latest\" = 1.5\n\"mine\" = 0.0").unwrap();
        assert_eq!(own.page_cost("mistral-ocr-latest", 1000), Some(1.5));
        assert_eq!(own.page_cost("mine", 7), Some(0.0));
        let error = Prices::builtin().with_toml("").unwrap_err().to_string();
        assert!(error.contains("[models]") && error.contains("[pages]"), "{error}");
    }

    #[test]
    fn a_bad_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prices.toml");
        std::fs::write(&path, "[models]\n\"a\" = { inptu = 1 }").unwrap();
        let path = path.display().to_string();
        let error = Prices::load(&|_| Some(path.clone())).unwrap_err().to_string();
        assert!(error.contains("prices.toml") && error.contains("inptu"), "{error}");
        let error = Prices::load(&|_| Some("/nowhere/p.toml".into())).unwrap_err().to_string();
        assert!(error.contains(PRICES_VAR), "{error}");
        assert!(Prices::load(&|_| None).is_ok());
    }
}
