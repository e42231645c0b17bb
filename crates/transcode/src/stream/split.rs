//! Where one JSON document ends and the next begins, in a body that arrives in chunks.
//!
//! Lives here: the outline of a JSON array and of NDJSON. Does not: the documents themselves, which are only bracketed
//! here and checked when read.
//! Invariants: what lies outside of documents is checked here; a document handed out is never blank; positions are
//! those of the whole body.

use crate::bind::BindError;
use crate::codec::json::{Fault, Position};

/// One document of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) text: Vec<u8>,
    /// Where it starts in the body.
    pub(super) origin: Position,
}

#[derive(Debug)]
pub(super) struct Splitter {
    state: State,
    /// The document so far.
    held: Vec<u8>,
    origin: Position,
    /// Of the next byte.
    position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `[`.
    Start,
    /// After `[`: a document or `]`.
    First,
    /// After a comma: a document.
    Next,
    /// In a document; depth of brackets, and whether in a string.
    Within { depth: usize, text: Text },
    /// After a document: a comma or `]`.
    After,
    /// After `]`.
    End,
    /// NDJSON, within or between lines.
    Line,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Outside,
    Inside,
    Escaped,
}

impl Splitter {
    /// One JSON array; its elements are the documents.
    pub(super) fn array() -> Self {
        Self { state: State::Start, held: Vec::new(), origin: Position::START, position: Position::START }
    }

    /// A document on each line; blank lines are skipped.
    pub(super) fn lines() -> Self {
        Self { state: State::Line, ..Self::array() }
    }

    pub(super) fn buffered(&self) -> usize {
        self.held.len()
    }

    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Document>, BindError> {
        let mut documents = Vec::new();
        for byte in chunk {
            self.byte(*byte, &mut documents)?;
            self.position = self.position.after(std::slice::from_ref(byte));
        }
        Ok(documents)
    }

    pub(super) fn finish(&mut self) -> Result<Vec<Document>, BindError> {
        match self.state {
            State::Line => {
                let mut documents = Vec::new();
                self.take(&mut documents);
                Ok(documents)
            }
            // A body without a byte is a stream without a message.
            State::Start if self.position == Position::START => Ok(Vec::new()),
            State::Start => Err(self.fault("expected '[', found the end of the body")),
            State::End => Ok(Vec::new()),
            State::First | State::Next | State::Within { .. } | State::After => {
                Err(self.fault("the array does not end"))
            }
        }
    }

    fn byte(&mut self, byte: u8, documents: &mut Vec<Document>) -> Result<(), BindError> {
        let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.state {
            State::Line if byte == b'\n' => self.take(documents),
            State::Line => self.push(byte),
            State::Within { depth, text } => self.within(byte, depth, text, documents),
            _ if space => {}
            State::Start if byte == b'[' => self.state = State::First,
            State::Start => return Err(self.fault(
                "a client stream is a JSON array of messages (or one a line, as application/x-ndjson): expected '['",
            )),
            State::First if byte == b']' => self.state = State::End,
            State::First | State::Next if matches!(byte, b',' | b']') => return Err(self.fault("expected a message")),
            State::First | State::Next => self.within(byte, 0, Text::Outside, documents),
            State::After if byte == b',' => self.state = State::Next,
            State::After if byte == b']' => self.state = State::End,
            State::After => return Err(self.fault("expected ',' or ']'")),
            State::End => return Err(self.fault("expected the end of the body")),
        }
        Ok(())
    }

    fn within(&mut self, byte: u8, depth: usize, text: Text, documents: &mut Vec<Document>) {
        if depth == 0 && text == Text::Outside && matches!(byte, b',' | b']') {
            self.take(documents);
            self.state = if byte == b',' { State::Next } else { State::End };
            return;
        }
        self.push(byte);
        let (depth, text) = match (text, byte) {
            (Text::Escaped, _) => (depth, Text::Inside),
            (Text::Inside, b'\\') => (depth, Text::Escaped),
            (Text::Inside, b'"') => (depth, Text::Outside),
            (Text::Inside, _) => (depth, Text::Inside),
            (Text::Outside, b'"') => (depth, Text::Inside),
            (Text::Outside, b'{' | b'[') => (depth + 1, Text::Outside),
            (Text::Outside, b'}' | b']') => (depth.saturating_sub(1), Text::Outside),
            (Text::Outside, _) => (depth, Text::Outside),
        };
        self.state = State::Within { depth, text };
        // A closed object is complete at once; what is no object is complete at the comma after it.
        if depth == 0 && byte == b'}' && text == Text::Outside {
            self.take(documents);
            self.state = State::After;
        }
    }

    fn push(&mut self, byte: u8) {
        if self.held.is_empty() {
            self.origin = self.position;
        }
        self.held.push(byte);
    }

    /// Hands out the document held, unless it is blank.
    fn take(&mut self, documents: &mut Vec<Document>) {
        let text = std::mem::take(&mut self.held);
        if !text.trim_ascii().is_empty() {
            documents.push(Document { text, origin: self.origin });
        }
    }

    fn fault(&self, reason: &str) -> BindError {
        Fault::new(0, reason).into_error(&[], self.position)
    }
}
