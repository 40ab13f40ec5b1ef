//! Readers of what models and servers send, on spoiled copies of good answers.
//!
//! Each test spoils its seeds a fixed number of times, always in the same way. `CMBAGENT_FUZZ_SECONDS=60` makes it
//! go on for that long with inputs of its own; the input of a failure is then in the message, to be added as a seed.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "llm/server.rs"]
mod server;

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cmbagent::agents::{extract, notes, parse};
use cmbagent::engine::ledger::{Line, Total, report};
use cmbagent::llm::redact::redact;
use cmbagent::llm::routing::{Route, Wire};
use cmbagent::llm::sse::{Event, Parser};
use cmbagent::llm::tape::{Player, Recorder, Subject};
use cmbagent::llm::think::{LiveFilter, strip};
use cmbagent::llm::{Call, LlmError, Provider, Reply, Schema, Watch, fold};
use fastrand::Rng;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde_json::json;

/// How often each seed is spoiled.
const ROUNDS: u64 = 400;

/// What breaks readers more often than chance would find.
const ODD: [&str; 44] = [
    "```",
    "~~~",
    "```python\n",
    "````",
    "\n",
    "\r\n",
    "\r",
    "\u{feff}",
    "\0",
    "\u{2028}",
    "é",
    "🌌",
    "\u{301}",
    "İ",
    "<think>",
    "</think>",
    "<thinking>",
    "</thinking>",
    "`",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "-1",
    "1e300",
    "18446744073709551615",
    "1.5",
    "true",
    "[]",
    "{}",
    "data: ",
    "event: error\n",
    "data: [DONE]\n\n",
    ":",
    "'''",
    "\"\"\"",
    "# filename: ../../etc/passwd",
    "Status: remaining: ",
    "- Step 1:\n\t* sub-task: x\n\t* agent: engineer\n",
];

/// Spoils a text: bytes changed, taken out, doubled, moved, or something odd put in.
fn spoil(rng: &mut Rng, seeds: &[Vec<u8>], seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(0..=bytes.len());
        let end = (at + rng.usize(0..40)).min(bytes.len());
        match rng.u8(0..8) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(at),
            2 => {
                let piece = bytes[at..end].to_vec();
                let times = if rng.u8(0..20) == 0 { 300 } else { 1 };
                drop(bytes.splice(at..at, piece.repeat(times)));
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            4 if at < bytes.len() => bytes[at] = rng.u8(..),
            5 => {
                let other = &seeds[rng.usize(0..seeds.len())];
                let from = rng.usize(0..=other.len());
                let to = (from + rng.usize(0..200)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            _ => {
                let odd = ODD[rng.usize(0..ODD.len())];
                let times = if rng.u8(0..20) == 0 { 500 } else { 1 };
                drop(bytes.splice(at..end, odd.repeat(times).into_bytes()));
            }
        }
    }
    bytes
}

/// Shows `check` every seed and its spoiled copies.
fn fuzz(seeds: &[Vec<u8>], check: impl Fn(&mut Rng, &[u8])) {
    let guarded = |number: u64, input: &[u8]| {
        let checked = catch_unwind(AssertUnwindSafe(|| check(&mut Rng::with_seed(number), input)));
        assert!(checked.is_ok(), "input {number} breaks it: {:?}", String::from_utf8_lossy(input));
    };
    for seed in seeds {
        guarded(0, seed);
    }
    let round = |number: u64| {
        for (index, seed) in seeds.iter().enumerate() {
            let number = number * seeds.len() as u64 + index as u64;
            guarded(number, &spoil(&mut Rng::with_seed(number), seeds, seed));
        }
    };
    (0..ROUNDS).for_each(round);
    if let Ok(seconds) = std::env::var("CMBAGENT_FUZZ_SECONDS") {
        let until = Instant::now() + Duration::from_secs_f64(seconds.parse().unwrap());
        let mut number = fastrand::u64(ROUNDS..1 << 40);
        while Instant::now() < until {
            round(number);
            number += 1;
        }
    }
}

fn text_fuzz(seeds: &[&str], check: impl Fn(&mut Rng, &str)) {
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    fuzz(&seeds, |rng, bytes| check(rng, &String::from_utf8_lossy(bytes)));
}

/// The same bytes, cut anywhere.
fn cut<'a>(rng: &mut Rng, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..=rest.len().min(97)));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn golden(provider: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llm").join(provider);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds = paths.iter().filter(|path| path.to_string_lossy().ends_with(ending));
    seeds.map(|path| std::fs::read(path).unwrap()).collect()
}

/// What a call comes to, and the words that were told on the way.
fn folded(wire: Wire, stream: bool, pieces: &[&[u8]]) -> (Result<Reply, LlmError>, String) {
    let mut call = server::call("gpt-4.1");
    let schema = json!({"type": "object", "properties": {"answer": {"type": ["string", "null"]}}});
    call.request.schema = Some(Schema { name: "a".into(), schema });
    let key = Some(SecretString::from(server::KEY.to_owned()));
    let route =
        Route { wire, model: "gpt-4.1".into(), base_url: "http://127.0.0.1".into(), custom: true, key };
    let told = Mutex::new(String::new());
    let words = |text: String| told.lock().unwrap().push_str(&text);
    let reply = fold(&call, &route, stream, pieces.iter().copied(), &words);
    (reply, told.into_inner().unwrap())
}

fn wire(wire: Wire, provider: &str) {
    for (stream, ending) in [(true, ".stream.txt"), (false, ".reply.txt")] {
        let mut seeds = golden(provider, ending);
        assert!(!seeds.is_empty());
        let error = json!({"error": {"message": format!("bad key {}", server::KEY), "code": 401, "details": [{"retryDelay": "3s"}]}});
        seeds.push(if stream { server::data(&error).into_bytes() } else { error.to_string().into_bytes() });
        fuzz(&seeds, |rng, bytes| {
            let came = folded(wire, stream, &[bytes]);
            let again = folded(wire, stream, &cut(rng, bytes));
            assert_eq!(format!("{came:?}"), format!("{again:?}"), "how the bytes are cut decides");
            match came.0 {
                Ok(reply) => {
                    let line = |agent: &str| Line::new(agent, "m", reply.usage);
                    let lines = [line("a"), line("b")];
                    assert!(Total::of(&lines).usage.prompt_tokens >= reply.usage.prompt_tokens);
                    assert!(
                        reply.usage.cost.is_none_or(|cost| cost.is_finite() && cost >= 0.0),
                        "{:?}",
                        reply.usage
                    );
                    assert_eq!(report(&lines).len(), 3);
                    let kept: Reply = serde_json::from_str(&serde_json::to_string(&reply).unwrap()).unwrap();
                    assert_eq!(kept.text, reply.text);
                }
                Err(error) => {
                    assert!(!error.message.is_empty() && !error.message.contains(server::KEY), "{error}");
                }
            }
        });
    }
}

#[test]
fn openai_replies() {
    wire(Wire::OpenAi, "openai");
}

#[test]
fn anthropic_replies() {
    wire(Wire::Anthropic, "anthropic");
}

#[test]
fn gemini_replies() {
    wire(Wire::Gemini, "gemini");
}

#[test]
fn event_streams() {
    let seeds = [golden("openai", ".stream.txt"), golden("anthropic", ".stream.txt")].concat();
    let read = |pieces: &[&[u8]]| {
        let mut parser = Parser::new();
        let mut events: Vec<Event> = pieces.iter().flat_map(|piece| parser.feed(piece)).collect();
        events.extend(parser.finish());
        events
    };
    fuzz(&seeds, |rng, bytes| assert_eq!(read(&[bytes]), read(&cut(rng, bytes))));
}

const PLANS: [&str; 5] = [
    r#"{"sub_tasks": [{"bullet_points": ["sample", "plot"], "sub_task": "Fit", "sub_task_agent": "engineer"},
        {"sub_task": "Write", "sub_task_agent": "researcher", "bullet_points": "- a\n- b"}]}"#,
    "Here it is:\n```json\n[{\"task\": \"x\", \"agent\": \"The Engineer agent\", \"instructions\": []}]\n```\nDone.",
    "**PLAN**\n\n- Step 1:\n\t* sub-task: fit\n\t* agent in charge: engineer\n\n\t* instructions:\n\t\t- use the data\n\t\t  twice\n- Step 2:\n\t* sub-task: write\n\t* agent: researcher\n",
    "<think>hm {\"sub_tasks\": 3}</think># Step 1: **Fit**\n**agent**: `engineer`\n* bullet points:\n  1. one\n  2) two",
    r#"{"ideas": [{"title": "A", "description": "b", "data_needed": "", "method": "", "expected_result": "", "risk": ""}]}"#,
];

/// What a reader says of a text: something, or a complaint that a repair turn can quote.
fn said<T: Debug>(read: Result<T, String>) -> Option<T> {
    read.map_err(|complaint| assert!(!complaint.trim().is_empty())).ok()
}

#[test]
fn plans_reviews_and_ideas() {
    let more = [
        r#"{"recommendations": ["name the units", "split step 2"]}"#,
        "## Recommendations:\n\n1. Name the units.\n   All of them.\n2. Split.\n",
        "- Idea 1:\n\t* Lensing\n\t\t- bispectrum\n- Idea 2: **Delensing**\n  * templates",
        r#"{"critiques": [{"title": "A", "relevance": "r", "feasibility": "f", "weaknesses": "w", "improvements": "i", "discard": false}]}"#,
    ];
    text_fuzz(&[PLANS.as_slice(), &more].concat(), |_, text| {
        if let Some(steps) = said(parse::plan(text)) {
            assert!(
                steps.iter().all(|s| !s.sub_task.trim().is_empty() && !s.sub_task_agent.is_empty()),
                "{steps:?}"
            );
            // What was understood is understood again from the file it is written to.
            let again = parse::plan_of(&serde_json::to_value(&steps).unwrap());
            assert_eq!(again.as_ref(), Ok(&steps), "{steps:?}");
        }
        if let Some(items) = said(parse::review(text)) {
            assert!(!items.is_empty());
        }
        if let Some(ideas) = said(parse::ideas(text)) {
            assert!(ideas.iter().all(|idea| !idea.title.trim().is_empty()), "{ideas:?}");
        }
        if let Some(critiques) = said(parse::critique(text)) {
            assert!(critiques.iter().all(|critique| !critique.title.trim().is_empty()), "{critiques:?}");
        }
        if let Some(object) = said(parse::object(text)) {
            assert!(object.is_object());
        }
    });
}

#[test]
fn code_of_the_engineer() {
    let seeds = [
        "It fits.\n\n```python\n# filename: fit.py\nimport numpy as np\nprint('a = 1')\n```\n\nStatus: finished",
        "**Modifications:**\n\nless\n\n~~~~py\nx = '''\n```\n'''\nprint(x)\n~~~~\nStatus: remaining: the plot",
        "```markdown\n# Answer\n```python\ndef f():\n\treturn “a”\n```\n```",
        "import os\nfor i in range(3):\n    print(i)\n",
        "<think>```python\nno()\n```</think>\n   ```{.python}\n   # filename: a/b.py\n   print(1)\n   ```",
        "```python\n# file name = x.py\n'''open\n```\n# ... rest of the code\n",
    ];
    text_fuzz(&seeds, |_, text| {
        let answer = extract::answer(text);
        let plain = text.replace('\r', "");
        let dos = plain.replace('\n', "\r\n");
        assert_eq!(extract::answer(&plain), extract::answer(&dos), "line ends decide");
        if let Some(code) = &answer.code {
            assert!(!code.trim().is_empty() && code.ends_with('\n'), "{answer:?}");
            assert!(extract::normalise(code).ends_with('\n'));
        }
        let (name, _) = notes::notes(text, None, &["notes.md".into()]);
        assert!(
            !name.is_empty() && !name.contains(['/', '\\', '\0', '\n']) && !name.starts_with('.'),
            "{name:?}"
        );
        assert_ne!(name, "notes.md");
    });
}

#[test]
fn thinking() {
    let seeds = [
        "<think>\nhm\n</think>\n\nThe answer.",
        "hm, so\n</think>\nThe answer with `<think>` in it.\n```\n<think>\n```\n",
        "one <think>x</think>two <thinking>y</thinking>three",
        "  <thinking>never closed",
        "{\"a\": \"<think>\"}",
    ];
    text_fuzz(&seeds, |rng, text| {
        let kept = strip(text);
        assert!(kept.len() <= text.len());
        let live = |pieces: &[&str]| {
            let mut filter = LiveFilter::default();
            let mut shown: String = pieces.iter().map(|piece| filter.push(piece)).collect();
            shown.push_str(&filter.finish());
            shown
        };
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let ends: Vec<usize> = rest.char_indices().map(|(at, c)| at + c.len_utf8()).take(12).collect();
            let (piece, after) = rest.split_at(ends[rng.usize(0..ends.len())]);
            pieces.push(piece);
            rest = after;
        }
        assert_eq!(live(&pieces).trim_start(), live(&[text]).trim_start(), "how the words are cut decides");
    });
}

/// A provider that is asked for nothing here.
struct Nobody;
impl Provider for Nobody {
    fn call<'a>(&'a self, _: &'a Call, _: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        panic!("a tape that is read asks no model")
    }
}

#[test]
fn tapes() {
    let head = r#"{"tape":1,"cmbagent":"0.1.0","run":"r","workflow":"w","task":"t"}"#;
    let place = r#""place":{"phase":1,"phase_type":"control","step":1,"agent":"engineer","call":1}"#;
    let request = r#""request":{"model":"m","system":"s","messages":[{"role":"user","parts":[{"type":"text","text":"t"}]}]}"#;
    let reply = r#""reply":{"text":"a","finish":{"reason":"stop"},"usage":{"prompt_tokens":1,"cost":0.5},"model":"m"}"#;
    let error = r#""error":{"kind":"rate_limit","message":"m","status":429,"model":"m"}"#;
    let whole = format!("{head}\n{{{place},{request},{reply}}}\n{{{place},{request},{error}}}\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tape.jsonl");
    let subject = Subject {
        run: "r".into(),
        workflow: "w".into(),
        task: "t".into(),
        work_dir: directory.path().into(),
    };
    std::fs::write(&path, &whole).unwrap();
    assert!(Player::open(&path, Arc::new(Nobody), &subject, false).is_ok());
    fuzz(&[whole.into_bytes()], |_, bytes| {
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = Player::open(&path, Arc::new(Nobody), &subject, false) {
            assert!(error.to_string().contains("tape.jsonl"), "{error}");
        }
        // Going on with a tape may take its cut end off, and never anything else.
        if Recorder::open(&path, Arc::new(Nobody), &subject).is_ok() {
            let left = std::fs::read(&path).unwrap();
            assert!(
                bytes.starts_with(&left) && left.ends_with(b"\n") && !bytes[left.len()..].contains(&b'\n')
            );
        } else {
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    });
}

#[test]
fn redaction() {
    let seeds = [
        "Incorrect API key provided: sk-proj-abcDEF123456. See https://x",
        r#"{"error": {"message": "header x-api-key: abc-def-secret1 came", "api_key": "zzz"}}"#,
        "Authorization: Bearer abcdefgh12345\r\nGET https://host/v1?key=zzz-secret1&alt=sse AIzaSyA1234567890abcdefg",
    ];
    text_fuzz(&seeds, |rng, text| {
        for key in ["test-key-000111222", "sk-ant-MARKED-4f3c2b1a", "AIzaMARKED4f3c2b1a0987"] {
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let at = ends[rng.usize(0..ends.len())];
            let leaky = format!("{}{key}{}", &text[..at], &text[at..]);
            let clean = redact(&leaky, Some(&SecretString::from(key.to_owned())));
            assert!(!clean.contains(key), "{clean}");
            assert_eq!(redact(&clean, None), clean, "what is clean stays as it is");
        }
    });
}
