//! What was read of an answer before its caller gets any of it.
//!
//! Lives here: the frames, in their order, uncopied. Does not: when an answer is held, and for how long (`retry`), reading it (`answer`).
//! One frame of data is nearly every unary answer, so that one needs no list.

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

#[derive(Debug, Default)]
pub(crate) struct Held {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Of data that was pushed, taken out or not.
    bytes: usize,
}

impl Held {
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                self.bytes += data.len();
                match self.first {
                    None if self.more.is_empty() => self.first = Some(data),
                    None | Some(_) => self.more.push_back(data),
                }
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    /// The next frame, in the order in which they came.
    pub(crate) fn next(&mut self) -> Option<Frame<Bytes>> {
        let data = self.first.take().or_else(|| self.more.pop_front());
        data.map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers))
    }

    /// Bytes of data that were held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_the_order_in_which_they_came_and_trailers_last() {
        let mut held = Held::default();
        assert!(held.is_empty() && held.next().is_none());
        for data in ["one", "two", "three"] {
            held.push(Frame::data(Bytes::from_static(data.as_bytes())));
        }
        held.push(Frame::trailers(HeaderMap::new()));
        assert_eq!((held.bytes(), held.trailers()), (11, Some(&HeaderMap::new())));
        let out: Vec<_> = std::iter::from_fn(|| held.next()).map(|frame| frame.into_data().ok()).collect();
        assert_eq!(out, [Some("one".into()), Some("two".into()), Some("three".into()), None]);
        assert!(held.is_empty());
    }
}
