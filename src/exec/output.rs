//! A script's output on its way out: decoded, coalesced for the live view, kept within bounds.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{ExecError, confine};

/// Bytes kept in memory at either end of the output.
pub(super) const KEPT: usize = 512 * 1024;
/// Bytes written to the log file before it is cut.
pub(super) const LOG_CAP: u64 = 64 * 1024 * 1024;
/// A live chunk is sent at this size …
const CHUNK: usize = 8 * 1024;
/// … or this long after its first byte came.
const HOLD: Duration = Duration::from_millis(20);
/// Live bytes within one [`WINDOW`]; the rest is only kept and logged. No eye follows more.
const LIVE_CAP: usize = 512 * 1024;
const WINDOW: Duration = Duration::from_millis(250);

/// Turns bytes into text across chunk borders; what is not UTF-8 becomes U+FFFD.
#[derive(Default)]
pub(super) struct Decoder(Vec<u8>);

impl Decoder {
    /// Decodes all that is complete; an unfinished character waits for its rest.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let whole = self.0.len() - unfinished(&self.0);
        let text = String::from_utf8_lossy(&self.0[..whole]).into_owned();
        self.0.drain(..whole);
        text
    }

    /// Decodes what is left at the end.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// How many bytes at the end begin a character that may still be completed.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        if byte & 0xC0 == 0x80 {
            continue;
        }
        let length = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if length > back { back } else { 0 };
    }
    0
}

/// The first and last [`KEPT`] bytes of the output.
#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        let to_head = bytes.len().min(KEPT - self.head.len());
        self.head.extend_from_slice(&bytes[..to_head]);
        self.tail.extend(&bytes[to_head..]);
        let excess = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..excess);
        self.left_out += excess as u64;
    }

    fn text(mut self) -> (String, bool) {
        if self.left_out == 0 {
            self.head.extend(self.tail);
            return (String::from_utf8_lossy(&self.head).into_owned(), false);
        }
        // Neither cut may go through a character.
        self.head.truncate(self.head.len() - unfinished(&self.head));
        while self.tail.front().is_some_and(|byte| byte & 0xC0 == 0x80) {
            self.tail.pop_front();
        }
        let text = format!(
            "{}\n[… {} bytes left out …]\n{}",
            String::from_utf8_lossy(&self.head),
            self.left_out,
            String::from_utf8_lossy(self.tail.make_contiguous()),
        );
        (text, true)
    }
}

/// The log file of one script, cut at [`LOG_CAP`].
struct Log {
    file: File,
    written: u64,
    skipped: u64,
    trouble: Option<io::Error>,
}

impl Log {
    fn push(&mut self, bytes: &[u8]) {
        let room = usize::try_from(LOG_CAP - self.written).unwrap_or(usize::MAX);
        let now = bytes.len().min(room);
        self.skipped += (bytes.len() - now) as u64;
        if now > 0 && self.trouble.is_none() {
            match self.file.write_all(&bytes[..now]) {
                Ok(()) => self.written += now as u64,
                Err(error) => self.trouble = Some(error),
            }
        }
    }

    /// Ends the log; the text says what it lacks, if anything.
    fn finish(mut self) -> Option<String> {
        if self.trouble.is_none() && self.skipped > 0 {
            let note = format!("\n[… the log ends after {LOG_CAP} bytes; {} more came …]\n", self.skipped);
            self.trouble = self.file.write_all(note.as_bytes()).err();
        }
        self.trouble.map(|error| format!("\n[the log file of this output is incomplete: {error}]\n"))
    }
}

/// Where a script's output goes: the log file, memory, and the live view.
pub(super) struct Sink<F: FnMut(String)> {
    live: F,
    decoder: Decoder,
    pending: String,
    pending_since: Instant,
    window: Instant,
    in_window: usize,
    unseen: usize,
    kept: Kept,
    log: Log,
}

impl<F: FnMut(String)> Sink<F> {
    /// Makes the log and begins; what was in its place is removed, and no link is followed.
    pub(super) fn open(log_path: &Path, live: F) -> Result<Self, ExecError> {
        let file = confine::create(log_path)?;
        let now = Instant::now();
        Ok(Self {
            live,
            decoder: Decoder::default(),
            pending: String::new(),
            pending_since: now,
            window: now,
            in_window: 0,
            unseen: 0,
            kept: Kept::default(),
            log: Log { file, written: 0, skipped: 0, trouble: None },
        })
    }

    /// Takes what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.log.push(bytes);
        self.kept.push(bytes);
        let text = self.decoder.feed(bytes);
        if self.window.elapsed() >= WINDOW {
            self.window = Instant::now();
            self.in_window = 0;
        }
        if self.in_window + text.len() > LIVE_CAP {
            self.unseen += text.len();
            return;
        }
        self.in_window += text.len();
        if self.pending.is_empty() {
            self.pending_since = Instant::now();
        }
        self.mark_unseen();
        self.pending.push_str(&text);
        if self.pending.len() >= CHUNK {
            self.flush();
        }
    }

    /// When the live view wants its next chunk, if text is pending.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.pending.is_empty()).then(|| self.pending_since + HOLD)
    }

    /// Sends what is pending.
    pub(super) fn flush(&mut self) {
        if !self.pending.is_empty() {
            (self.live)(std::mem::take(&mut self.pending));
        }
    }

    fn mark_unseen(&mut self) {
        if self.unseen > 0 {
            let note = format!("\n[… {} bytes not shown live …]\n", self.unseen);
            self.pending.push_str(&note);
            self.unseen = 0;
        }
    }

    /// Ends the output: what was kept, and whether the middle is missing.
    pub(super) fn finish(mut self) -> (String, bool) {
        let rest = self.decoder.finish();
        self.mark_unseen();
        self.pending.push_str(&rest);
        self.flush();
        let (mut text, truncated) = self.kept.text();
        if let Some(note) = self.log.finish() {
            text.push_str(&note);
        }
        (text, truncated)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_character_split_over_chunks_comes_out_whole() {
        let bytes = "aä€😀z".as_bytes();
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::default();
            let text = decoder.feed(&bytes[..cut]) + &decoder.feed(&bytes[cut..]) + &decoder.finish();
            assert_eq!(text, "aä€😀z", "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_utf8_is_replaced_and_never_held_back() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(decoder.feed(b"\xe2\x82"), "");
        assert_eq!(decoder.finish(), "\u{fffd}");
    }

    #[test]
    fn head_and_tail_are_kept_and_the_middle_is_counted() {
        let mut kept = Kept::default();
        kept.push(b"first ");
        for _ in 0..3 {
            kept.push("é".repeat(KEPT / 2).as_bytes());
        }
        kept.push(b" last");
        let (text, cut) = kept.text();
        assert!(cut);
        assert!(text.starts_with("first ") && text.ends_with(" last"));
        assert!(!text.contains('\u{fffd}'), "a cut went through a character");
        assert!(text.contains(&format!("[… {} bytes left out …]", KEPT + 11)));
    }

    #[test]
    fn small_output_is_kept_whole() {
        let mut kept = Kept::default();
        kept.push(b"one\n");
        kept.push(b"two\n");
        assert_eq!(kept.text(), ("one\ntwo\n".to_owned(), false));
    }

    #[test]
    fn live_text_is_coalesced_and_bounded_while_memory_and_log_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let mut seen = Vec::new();
        let mut sink = Sink::open(&path, |text: String| seen.push(text)).unwrap();
        sink.push(b"a");
        sink.push(b"b");
        assert!(sink.due().is_some());
        sink.flush();
        sink.push(&vec![b'x'; LIVE_CAP]);
        sink.push(b"end");
        let (text, cut) = sink.finish();
        assert_eq!(seen[0], "ab");
        assert!(!cut && text.len() == LIVE_CAP + 5);
        assert_eq!(std::fs::read(&path).unwrap().len(), LIVE_CAP + 5);
        assert!(seen.concat().contains("bytes not shown live"));
    }

    #[test]
    fn a_link_in_place_of_the_log_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "mine").unwrap();
        let path = folder.path().join("a.log");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let mut sink = Sink::open(&path, |_| ()).unwrap();
        sink.push(b"ours");
        sink.finish();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ours");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine");
    }
}
