//! An error with its causes on one line, for logs.
//!
//! Lives here: that. Does not: errors.

/// Returns the error and what caused it, without saying twice what an outer error already ends with.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
