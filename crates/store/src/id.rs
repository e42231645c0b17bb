//! Ids of rows: given by us, opaque to callers.
//!
//! Lives here: their form. Does not: what has one.

use std::fmt;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Type};
use uuid::Uuid;

use crate::Error;

/// Opaque to callers. A UUID of version 7: ids sort by time of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(Uuid);

impl Id {
    /// Makes a new id, above all that this process made before.
    #[expect(clippy::new_without_default, reason = "no two are the same, so there is no default")]
    pub fn new() -> Self {
        Id(Uuid::now_v7())
    }

    /// Reads what a caller sent: the one spelling that we give out, since an id is a word and not a number to be written in several ways.
    ///
    /// # Errors
    /// [`Error::NotFound`]: an id that is not of our form belongs to nothing, which is all that a caller needs to know.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let id = Uuid::try_parse(text).map(Id).ok();
        id.filter(|id| id.to_string() == text).ok_or(Error::NotFound)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Id(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl<DB: Database> Type<DB> for Id
where
    String: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        <String as Type<DB>>::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        <String as Type<DB>>::compatible(ty)
    }
}

impl<'q, DB: Database> Encode<'q, DB> for Id
where
    String: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.to_string().encode(buffer)
    }
}

impl<'r, DB: Database> Decode<'r, DB> for Id
where
    &'r str: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = <&str as Decode<DB>>::decode(value)?;
        Id::parse(text).map_err(|_| format!("{text:?} is no id").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = Id::new().to_string();
        assert_eq!(Id::parse(&id).unwrap().to_string(), id);
        for other in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"), String::new(), "1".to_owned()] {
            assert!(matches!(Id::parse(&other), Err(Error::NotFound)), "{other:?}");
        }
    }

    #[test]
    fn ids_sort_by_creation() {
        let ids: Vec<String> = (0..1_000).map(|_| Id::new().to_string()).collect();
        assert!(ids.is_sorted());
    }
}
