//! Names of headers that a policy may read or write.
//!
//! Lives here: what a name looks like, and that it is not somebody else's. Does not: which names are whose (each kind lists them), names that pages in
//! browsers use, which may be any (`cors`).

use crate::Invalid;

/// Longest name.
const LONGEST: usize = 512;

/// Names of headers that have an owner.
pub(super) struct Owned {
    /// Whole names.
    pub(super) names: &'static [&'static str],
    /// How others begin.
    pub(super) beginnings: &'static [&'static str],
}

impl Owned {
    /// Accepts a name in lower case that is nobody's; `cure` is said of one that is.
    pub(super) fn leave(&self, name: &str, cure: &str) -> Result<(), Invalid> {
        let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        let wrong = |why: &str| Err(Invalid::new("", format!("{name:?} {why}")));
        if name.is_empty() || name.len() > LONGEST || !name.bytes().all(token) {
            return wrong("is no name of a header in lower case");
        }
        if self.names.contains(&name) || self.beginnings.iter().any(|it| name.starts_with(it)) {
            return wrong(&format!("belongs to the transport or the gateway{cure}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_in_lower_case_that_nobody_owns() {
        let owned = Owned { names: &["host"], beginnings: &["grpc-"] };
        let problem = |name: &str| owned.leave(name, "; take another").map_err(|e| e.problem().to_owned());
        assert!(problem("x-a_b.c1").is_ok() && problem("hosts").is_ok());
        for name in ["", "X-A", "a b", "\u{fc}", "a:b"] {
            assert!(problem(name).unwrap_err().ends_with("is no name of a header in lower case"), "{name}");
        }
        for name in ["host", "grpc-status"] {
            let said = problem(name).unwrap_err();
            assert!(said.ends_with("belongs to the transport or the gateway; take another"), "{said}");
        }
        assert!(problem(&"a".repeat(LONGEST)).is_ok() && problem(&"a".repeat(LONGEST + 1)).is_err());
    }
}
