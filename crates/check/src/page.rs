//! The table of ids as prose: one id for `--explain`, all of them for docs/checks.md.
//!
//! Lives here: the two texts. Does not: what they say (`ids`).

use std::fmt::Write;

use crate::ids::{self, Group, Id};

/// What `weft check --explain ID` prints.
pub fn explain(it: &Id) -> String {
    format!("{} {}: {}\n\n{}\n\nCure: {}.", it.id, it.group.title(), it.title, it.means, it.cure)
}

/// The page of all ids, in Markdown: what `weft check --explain` prints, and docs/checks.md.
pub fn page() -> String {
    let mut page = String::from(
        "# What `weft check` looks at\n\n\
         Made by `weft check --explain > docs/checks.md`; a test compares the two. An id means the same for ever.\n",
    );
    for group in Group::ALL {
        write!(page, "\n## {}\n", group.title()).expect("a String takes what is written to it");
        for it in ids::ALL.iter().filter(|it| it.group == group) {
            write!(page, "\n### {}\n\n**{}.** {}\n\nCure: {}.\n", it.id, it.title, it.means, it.cure)
                .expect("a String takes what is written to it");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_the_table() {
        let kept = include_str!("../../../docs/checks.md");
        assert!(kept == page(), "docs/checks.md is not what `weft check --explain` prints; write it there");
    }

    #[test]
    fn an_explanation_says_what_it_means_and_what_to_do() {
        let text = explain(&ids::PORTS);
        assert!(text.starts_with("WEFT0107 this machine: ports belong to the mesh\n"));
        assert!(text.contains(ids::PORTS.means) && text.ends_with(&format!("Cure: {}.", ids::PORTS.cure)));
    }
}
