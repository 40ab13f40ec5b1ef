//! Keeps keys out of every text that leaves this module.

use std::sync::LazyLock;

use crate::pattern::pattern;
use regex::{Captures, Regex};
use secrecy::{ExposeSecret, SecretString};

/// The longest piece of a provider's words that an error repeats, in characters.
pub const MAX_QUOTE: usize = 2_000;

const HIDDEN: &str = "[redacted]";

/// Shapes of keys, whoever they belong to: a gateway may echo another key than ours.
static SHAPES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r#"(?i)(?P<name>\b(?:x-api-key|x-goog-api-key|api[-_]?key|authorization)["']?\s*[:=]\s*["']?(?:bearer\s+)?)[^\s"',;&}]+"#,
        r#"|(?P<query>[?&](?:api_?)?key=)[^\s"'&]+"#,
        r"|(?P<bearer>\bbearer\s+)[A-Za-z0-9._~+/=*\-]{8,}",
        r"|\bsk-[A-Za-z0-9_*.\-]{6,}",
        r"|\bAIza[A-Za-z0-9_*\-]{10,}",
    ))
});

/// `text` without the call's own key and without anything that looks like a key.
pub fn redact(text: &str, key: Option<&SecretString>) -> String {
    let exact = key.map(ExposeSecret::expose_secret).map(str::trim).filter(|k| k.len() >= 4);
    let text = exact.map_or_else(|| text.to_owned(), |k| text.replace(k, HIDDEN));
    let hide = |found: &Captures<'_>| {
        let kept = ["name", "query", "bearer"].iter().find_map(|g| found.name(g)).map_or("", |m| m.as_str());
        format!("{kept}{HIDDEN}")
    };
    SHAPES.replace_all(&text, hide).into_owned()
}

/// [`redact`], on one line and cut to `limit` characters.
pub fn quote(text: &str, key: Option<&SecretString>, limit: usize) -> String {
    let clean = redact(text, key);
    let mut line = String::new();
    for word in clean.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    match line.char_indices().nth(limit) {
        Some((end, _)) => {
            line.truncate(end);
            line.push('…');
            line
        }
        None => line,
    }
}

/// `url` without a user and password in it.
pub fn address(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return redact(url, None) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
    redact(&format!("{scheme}://{}", &rest[start..]), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_shape_go() {
        let key = SecretString::from("local-token-1234".to_owned());
        for text in [
            "Incorrect API key provided: sk-proj-abcDEF123456. See https://x",
            "used local-token-1234 twice: local-token-1234",
            "key AIzaSyA1234567890abcdefg is bad",
            "Authorization: Bearer abcdefgh12345",
            "header x-api-key: abc-def-secret1 came",
            r#"{"api_key": "zzz-secret1"}"#,
            "GET https://host/v1?key=zzz-secret1&alt=sse",
            "Incorrect: sk-abc1***************1234",
        ] {
            let clean = redact(text, Some(&key));
            for secret in ["abcDEF", "local-token", "AIzaSyA", "abcdefgh12345", "secret1", "1234"] {
                assert!(!clean.contains(secret), "{clean}");
            }
            assert!(clean.contains(HIDDEN), "{clean}");
        }
        assert_eq!(redact("the sky is blue, task-sk is fine", None), "the sky is blue, task-sk is fine");
        assert!(redact("?key=abc&alt=sse", None).ends_with("&alt=sse"));
    }

    #[test]
    fn quotes_are_one_line_and_short() {
        assert_eq!(quote("a\n  b\tc", None, 100), "a b c");
        let long = quote(&"é".repeat(3_000), None, MAX_QUOTE);
        assert_eq!(long.chars().count(), MAX_QUOTE + 1);
    }

    #[test]
    fn addresses_lose_their_password() {
        assert_eq!(address("http://me:pw@host:1/v1"), "http://host:1/v1");
        assert_eq!(address("http://host/v1@2"), "http://host/v1@2");
    }
}
