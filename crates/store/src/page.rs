//! Pages of a list that goes by id: how many rows, and where the next page starts.
//!
//! Lives here: page size and page token, as a caller sends them and as a statement wants them. Does not: reading rows.
//! A token is the last id of the page before, so a page stays right however many rows come and go; it is encoded so that nobody
//! builds on its form, and starts with a version, so that it may change.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::QueryAs;
use sqlx::{Any, FromRow, query_as};
use tonic::Status;

use crate::Id;

const DEFAULT_SIZE: u16 = 50;
const MAX_SIZE: u16 = 1_000;
const TOKEN_VERSION: u8 = 1;
const UNKNOWN: &str = "is not a token that this service gave; start with an empty one";

/// One page of a list, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    size: u16,
    after: Option<Id>,
}

impl Page {
    /// Reads a page size (0 means 50, more than 1,000 counts as 1,000) and a page token (empty for the first page).
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names `page_size`, `page_token` or both.
    pub fn parse(page_size: i32, page_token: &str) -> Result<Self, Status> {
        match (size(page_size), after(page_token)) {
            (Ok(size), Ok(after)) => Ok(Page { size, after }),
            (size, after) => Err(weft::status::violations([("page_size", size.err()), ("page_token", after.err())])),
        }
    }

    /// Returns the statement that reads the page: `sql` takes what the ids are above as `$1` and how many rows it may give as `$2`; what else it
    /// takes is bound to what this returns.
    pub fn of<'q, T>(&self, sql: &'static str) -> QueryAs<'q, Any, T, AnyArguments>
    where
        T: for<'r> FromRow<'r, AnyRow>,
    {
        query_as(sql).bind(self.above()).bind(self.limit())
    }

    /// Returns what the ids of the page are above; for the first page a text that sorts before every id.
    fn above(&self) -> String {
        self.after.map(|id| id.to_string()).unwrap_or_default()
    }

    /// Returns how many rows to read: one more than asked for tells whether another page follows.
    fn limit(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Makes the answer of the rows read: the page itself, and the token of the next one, empty on the last.
    pub fn cut<T>(&self, mut rows: Vec<T>, id: impl FnOnce(&T) -> Id) -> (Vec<T>, String) {
        let more = rows.len() > usize::from(self.size);
        rows.truncate(self.size.into());
        let next = rows.last().filter(|_| more).map(|last| token_after(id(last)));
        (rows, next.unwrap_or_default())
    }
}

fn size(asked: i32) -> Result<u16, &'static str> {
    match u16::try_from(asked) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) if asked < 0 => Err("is negative"),
        Err(_) => Ok(MAX_SIZE),
    }
}

fn token_after(last: Id) -> String {
    URL_SAFE_NO_PAD.encode([&[TOKEN_VERSION][..], last.as_bytes()].concat())
}

fn after(token: &str) -> Result<Option<Id>, &'static str> {
    if token.is_empty() {
        return Ok(None);
    }
    match URL_SAFE_NO_PAD.decode(token).as_deref() {
        Ok([TOKEN_VERSION, id @ ..]) => match <[u8; 16]>::try_from(id) {
            Ok(id) => Ok(Some(Id::from_bytes(id))),
            Err(_) => Err(UNKNOWN),
        },
        _ => Err(UNKNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_default_and_a_limit() {
        assert_eq!([0, 1, 1_000, 1_001, i32::MAX].map(size), [50, 1, 1_000, 1_000, 1_000].map(Ok));
        assert!(size(-1).is_err() && size(i32::MIN).is_err());
    }

    #[test]
    fn a_token_leads_back_to_its_id() {
        let id = Id::new();
        assert_eq!(after(&token_after(id)), Ok(Some(id)));
        assert_eq!(after(""), Ok(None));
    }

    #[test]
    fn other_tokens_are_refused() {
        let shorter = &token_after(Id::new())[..20];
        let newer = URL_SAFE_NO_PAD.encode([2; 17]);
        for wrong in [shorter, &newer, "?", "AQ", &Id::new().to_string()] {
            assert!(after(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_page_that_came_with_one_row_more_has_a_next_one() {
        let ids: Vec<Id> = (0..3).map(|_| Id::new()).collect();
        let page = Page::parse(2, "").unwrap();
        assert_eq!((page.above().as_str(), page.limit()), ("", 3));
        let (rows, token) = page.cut(ids.clone(), |id| *id);
        assert_eq!(rows, ids[..2]);
        assert_eq!(Page::parse(2, &token).unwrap().above(), ids[1].to_string());
        assert_eq!(page.cut(ids[2..].to_vec(), |id| *id), (ids[2..].to_vec(), String::new()));
        assert_eq!(page.cut(ids[..2].to_vec(), |id| *id).1, "", "no empty page follows");
    }

    #[test]
    fn both_mistakes_are_said_at_once() {
        let status = Page::parse(-1, "no token").unwrap_err();
        assert!(status.message().contains("page_size") && status.message().contains("page_token"), "{status}");
    }
}
