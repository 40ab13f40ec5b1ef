//! Server-sent events, parsed as the bytes arrive.
//!
//! Follows the event stream grammar of the HTML standard, section 9.2, as far as model servers use it.

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field; empty when there was none.
    pub name: String,
    /// The `data:` lines, joined by line feeds.
    pub data: String,
}

/// An incremental parser: feed it chunks, however they are cut.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: String,
    data: Vec<String>,
    after_cr: bool,
    started: bool,
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and returns the events they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            // A line ends with CR, LF or CRLF, and CRLF may be cut between two chunks.
            let second_half = std::mem::take(&mut self.after_cr) && byte == b'\n';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    events.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
        }
        events
    }

    /// The event an ended stream left without its blank line. The standard drops it; servers that
    /// forget the last blank line are common enough to keep it.
    pub fn finish(&mut self) -> Option<Event> {
        if !self.line.is_empty() {
            let event = self.end_line();
            debug_assert!(event.is_none(), "a line that is not empty never completes an event");
        }
        self.dispatch()
    }

    fn end_line(&mut self) -> Option<Event> {
        // Only whole lines are decoded, so that a character cut between two chunks survives.
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let mut line = line.as_ref();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.data.push(value.to_owned()),
            "event" => value.clone_into(&mut self.name),
            // Comments (an empty field), `id` and `retry` mean nothing to a single request.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        if self.data.is_empty() {
            return None;
        }
        Some(Event { name, data: std::mem::take(&mut self.data).join("\n") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\u{feff}: hello\r\n\r\nevent: one\ndata: {\"a\":\r\ndata: \"π\"}\n\ndata:x\rid: 3\r\rdata\n\nevent: lost\n\ndata: end";

    fn expected() -> Vec<Event> {
        [("one", "{\"a\":\n\"π\"}"), ("", "x"), ("", ""), ("", "end")]
            .map(|(name, data)| Event { name: name.into(), data: data.into() })
            .to_vec()
    }

    #[test]
    fn every_cut_gives_the_same_events() {
        let bytes = STREAM.as_bytes();
        for size in 1..=bytes.len() {
            let mut parser = Parser::new();
            let mut events: Vec<Event> = bytes.chunks(size).flat_map(|c| parser.feed(c)).collect();
            events.extend(parser.finish());
            assert_eq!(events, expected(), "chunks of {size}");
            assert_eq!(parser.finish(), None);
        }
    }

    #[test]
    fn events_come_as_soon_as_their_blank_line() {
        let mut parser = Parser::new();
        assert!(parser.feed(b"data: a\r\n\r").len() == 1);
        assert!(parser.feed(b"\n").is_empty());
        assert!(parser.feed(b"data: b\n").is_empty());
        assert_eq!(parser.feed(b"\n")[0].data, "b");
    }
}
