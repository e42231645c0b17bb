//! How many members and elements one JSON document may have.
//!
//! Lives here: the bound, and whose word it is. Does not: counting (`json`), what is said of a fault (`json::fault`).

use std::fmt;
use std::sync::Arc;

/// Most members of objects and elements of lists that one document may have, all of them counted, whatever they are within.
#[derive(Clone)]
pub struct Elements {
    most: u32,
    whose: Option<Arc<Whose>>,
}

type Whose = dyn Fn() -> String + Send + Sync;

impl Elements {
    /// The bound of a codec that is given none.
    pub const DEFAULT: u32 = 1_000_000;

    /// Returns a bound. Of a document with more, `whose` is asked whose word that is; it is asked once for each such document, so that it can count them.
    pub fn new(most: u32, whose: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { most, whose: Some(Arc::new(whose)) }
    }

    pub(crate) fn most(&self) -> usize {
        usize::try_from(self.most).unwrap_or(usize::MAX)
    }

    /// Returns what is wrong with a document that has more, and what to do about it.
    #[cold]
    pub(crate) fn exceeded(&self) -> (String, String) {
        let reason = format!("more than {} members and elements", self.most);
        let whose = self.whose.as_ref().map(|whose| format!("{}; ", whose())).unwrap_or_default();
        (reason, format!("{whose}send fewer of them in one message"))
    }
}

impl Default for Elements {
    fn default() -> Self {
        Self { most: Self::DEFAULT, whose: None }
    }
}

impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Elements").field(&self.most).finish()
    }
}
