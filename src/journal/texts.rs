//! Long texts are kept once a run: in a record they are `{"$text": hash}`.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

const MARK: &str = "$text";

/// Texts of at least so many bytes are kept apart.
const LONG: usize = 512;

/// What a text is kept under.
pub(super) fn hash(text: &str) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    hash
}

/// A hash as records name it.
pub(super) fn name(hash: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Takes the long texts out of a value; `keep` gets each with its hash.
pub(super) fn split(value: Value, keep: &mut impl FnMut(&[u8], String)) -> Value {
    match value {
        Value::String(text) if text.len() >= LONG => {
            let hash = hash(&text);
            keep(&hash, text);
            json!({MARK: name(&hash)})
        }
        Value::Array(items) => items.into_iter().map(|item| split(item, keep)).collect(),
        Value::Object(map) => {
            let alone = map.len() == 1;
            let entries = map.into_iter().map(|(key, item)| {
                // A caller's own object of this form gets one more `$`, which `join` takes away.
                let key = if alone && key.starts_with(MARK) { key + "$" } else { key };
                (key, split(item, keep))
            });
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// Puts the long texts back; `find` gives the text of a hash.
pub(super) fn join(value: Value, find: &mut impl FnMut(&str) -> Result<String>) -> Result<Value> {
    Ok(match value {
        Value::Array(items) => items.into_iter().map(|item| join(item, find)).collect::<Result<_>>()?,
        Value::Object(map) => {
            let alone = map.len() == 1;
            if alone && let Some(hash) = map.get(MARK) {
                let hash = hash.as_str().ok_or_else(|| Error::Journal("has no hash".into()))?;
                return Ok(Value::String(find(hash)?));
            }
            let mut whole = Map::with_capacity(map.len());
            for (mut key, item) in map {
                if alone && key.starts_with(MARK) {
                    key.pop();
                }
                whole.insert(key, join(item, find)?);
            }
            Value::Object(whole)
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use serde_json::json;

    use super::{join, name, split};

    #[test]
    fn long_texts_are_kept_once_and_come_back() {
        let long = "é".repeat(400);
        let value = json!({"a": [long, "short"], "b": long, "c": {"$text": "mine"}, "d": {"$text$": {"$text": long}}});
        let mut kept = HashMap::new();
        let apart = split(value.clone(), &mut |hash, text| {
            kept.insert(name(hash), text);
        });
        assert_eq!(kept.len(), 1);
        assert!(apart.to_string().len() < 300, "{apart}");
        assert_eq!(join(apart, &mut |hash| Ok(kept[hash].clone())).unwrap(), value);
    }
}
