//! From token bytes to text that can be shown as it grows.

use std::ops::Range;

/// Why a stream could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// An empty stop string would stop everything before it starts.
    #[error("stop string {index} is empty")]
    EmptyStop {
        /// Its place in the list.
        index: usize,
    },
}

/// What one push brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Text to show now, possibly none.
    pub text: &'a str,
    /// A stop string was found: the text ends before it, and further pushes bring nothing.
    pub stopped: bool,
}

/// Bytes planned for: no vocabulary in use has longer tokens, and one that has makes the stream grow once.
const ROOM: usize = 256;

/// Turns token bytes into text: only whole characters, nothing of a stop string.
///
/// A character whose bytes are still coming in is held back; bytes that cannot become one turn into U+FFFD, one per
/// maximal invalid run as in [`String::from_utf8_lossy`], as soon as that is certain. Text that may be the beginning
/// of a stop string is held back until it is known not to be. All pieces together are the lossy decoding of all bytes,
/// cut before the stop string that was complete first, however the bytes were divided.
#[derive(Debug)]
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes of a character that is not complete: at most three between pushes.
    partial: Vec<u8>,
    /// `shown` bytes given out by the last push, then text held back.
    text: String,
    shown: usize,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends before whichever of `stops` comes first.
    ///
    /// # Errors
    /// [`StreamError::EmptyStop`].
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, StreamError> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(StreamError::EmptyStop { index });
        }
        let (partial, text) = (Vec::with_capacity(ROOM), String::with_capacity(ROOM));
        Ok(Self { stops, partial, text, shown: 0, stopped: false })
    }

    /// Takes the bytes of the next token.
    pub fn push(&mut self, bytes: &[u8]) -> Piece<'_> {
        self.forget_shown();
        if !self.stopped {
            self.decode(bytes);
            self.shown = match self.find_stop() {
                Some(stop) => self.stop_at(stop),
                None => self.text.len() - self.held_back(),
            };
        }
        self.piece()
    }

    /// Gives out what was held back: no more bytes will come.
    pub fn finish(&mut self) -> Piece<'_> {
        self.forget_shown();
        if !self.stopped {
            if !self.partial.is_empty() {
                self.partial.clear();
                self.text.push(char::REPLACEMENT_CHARACTER);
            }
            self.shown = match self.find_stop() {
                Some(stop) => self.stop_at(stop),
                None => self.text.len(),
            };
        }
        self.piece()
    }

    /// Whether a stop string was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    fn piece(&self) -> Piece<'_> {
        Piece { text: &self.text[..self.shown], stopped: self.stopped }
    }

    fn forget_shown(&mut self) {
        self.text.drain(..self.shown);
        self.shown = 0;
    }

    fn stop_at(&mut self, stop: usize) -> usize {
        self.stopped = true;
        self.text.truncate(stop);
        self.partial.clear();
        stop
    }

    /// Appends the whole characters of `partial` and `bytes` to the text and keeps the rest in `partial`.
    fn decode(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let mut used = 0;
        loop {
            let rest = &self.partial[used..];
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(_) => (rest.len(), None),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            // The prefix was just found valid; lossy conversion borrows it unchanged.
            self.text.push_str(&String::from_utf8_lossy(&rest[..valid]));
            used += valid;
            match bad {
                Some(len) => {
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    used += len;
                }
                None => break,
            }
        }
        self.partial.drain(..used);
    }

    /// Where the stop string begins that is complete first; of several that end together, the longest.
    fn find_stop(&self) -> Option<usize> {
        first_stop(&self.stops, &self.text)
    }

    /// Bytes at the end of the text that a stop string begins with.
    fn held_back(&self) -> usize {
        self.stops.iter().map(|stop| overlap(&self.text, stop)).max().unwrap_or(0)
    }
}

fn first_stop(stops: &[String], text: &str) -> Option<usize> {
    let found = stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start)));
    found.min().map(|(_, start)| start)
}

/// Length of the longest proper prefix of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    let candidates: Range<usize> = 1..stop.len().min(text.len() + 1);
    candidates.rev().find(|&len| stop.is_char_boundary(len) && text.ends_with(&stop[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(stops: &[&str]) -> TextStream {
        TextStream::new(stops.iter().copied()).unwrap()
    }

    #[test]
    fn half_a_character_waits_for_its_other_half() {
        let mut stream = stream(&[]);
        let bytes = "a👩é".as_bytes();
        let pieces: Vec<String> = bytes.iter().map(|&byte| stream.push(&[byte]).text.to_owned()).collect();
        assert_eq!(pieces, ["a", "", "", "", "👩", "", "é"]);
        assert_eq!(stream.finish().text, "");
    }

    #[test]
    fn invalid_bytes_are_replaced_once_and_only_when_certain() {
        let mut stream = stream(&[]);
        assert_eq!(stream.push(b"a\xF0\x9F").text, "a");
        assert_eq!(stream.push(b"b").text, "\u{FFFD}b");
        assert_eq!(stream.push(b"\xFF\xC3").text, "\u{FFFD}");
        assert_eq!(stream.finish().text, "\u{FFFD}");
        assert_eq!(stream.finish().text, "");
    }

    #[test]
    fn a_stop_string_is_never_shown_nor_what_follows() {
        let mut stream = stream(&["<end>", "</s>"]);
        assert_eq!(stream.push(b"hi <"), Piece { text: "hi ", stopped: false });
        assert_eq!(stream.push(b"e"), Piece { text: "", stopped: false });
        assert_eq!(stream.push(b"m> <en"), Piece { text: "<em> ", stopped: false });
        assert_eq!(stream.push(b"d> more </s>"), Piece { text: "", stopped: true });
        assert_eq!(stream.push(b"more"), Piece { text: "", stopped: true });
        assert_eq!(stream.finish(), Piece { text: "", stopped: true });
        assert!(stream.stopped());
    }

    #[test]
    fn the_stop_that_is_complete_first_counts_whole() {
        for chunk in [1, 2, 6] {
            let mut stream = stream(&["cd", "abcde", "bcd"]);
            let text: String = b"xabcde".chunks(chunk).map(|bytes| stream.push(bytes).text.to_owned()).collect();
            assert_eq!(text, "xa");
        }
        let mut stream = stream(&["aab"]);
        assert_eq!(stream.push(b"aaa").text, "a");
        assert_eq!(stream.push(b"b"), Piece { text: "", stopped: true });
    }

    #[test]
    fn what_only_looked_like_a_stop_comes_at_the_end() {
        let mut stream = stream(&["日本"]);
        assert_eq!(stream.push("日".as_bytes()).text, "");
        assert_eq!(stream.finish(), Piece { text: "日", stopped: false });
        assert_eq!(TextStream::new(["a", ""]).unwrap_err(), StreamError::EmptyStop { index: 1 });
    }

    /// The stop string found by looking at ever longer beginnings of the text.
    fn naive_stop(stops: &[String], text: &str) -> Option<usize> {
        (0..=text.len()).filter_map(|end| text.get(..end)).find_map(|head| {
            stops.iter().filter(|stop| head.ends_with(stop.as_str())).map(|stop| head.len() - stop.len()).min()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn pieces_add_up_to_the_lossy_text_before_the_first_stop(
            parts in prop::collection::vec(
                prop_oneof![
                    "[abé日👩]{1,3}".prop_map(String::into_bytes),
                    prop::collection::vec(any::<u8>(), 1..5),
                ], 0..12),
            stops in prop::collection::vec("[abé日\u{FFFD}]{1,4}", 0..3),
            cuts in prop::collection::vec(0usize..6, 1..40),
        ) {
            let bytes = parts.concat();
            let whole = String::from_utf8_lossy(&bytes).into_owned();
            let end = naive_stop(&stops, &whole);

            let mut stream = TextStream::new(stops).unwrap();
            let (mut text, mut rest) = (String::new(), &bytes[..]);
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                text.push_str(stream.push(now).text);
                rest = later;
            }
            text.push_str(stream.push(rest).text);
            text.push_str(stream.finish().text);
            prop_assert_eq!(text.as_str(), &whole[..end.unwrap_or(whole.len())]);
            prop_assert_eq!(stream.stopped(), end.is_some());
        }
    }
}
