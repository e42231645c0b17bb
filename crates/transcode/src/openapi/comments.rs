//! What the authors of a proto wrote above its parts.
//!
//! Lives here: finding a descriptor's comment in the source info of its file. Does not: anything for files that were compiled without
//! source info, as those that Go's, Java's and Python's reflection hands out: they have no comments.

use std::collections::HashMap;

use prost_reflect::FileDescriptor;
use prost_reflect::prost_types::source_code_info::Location;

/// Comments of one pool's files; a file is read when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Comments {
    files: HashMap<String, HashMap<Vec<i32>, String>>,
}

impl Comments {
    /// Returns the comment of what `path` leads to in a file.
    pub(super) fn of(&mut self, file: &FileDescriptor, path: &[i32]) -> Option<String> {
        if !self.files.contains_key(file.name()) {
            self.files.insert(file.name().to_owned(), read(file));
        }
        self.files[file.name()].get(path).cloned()
    }
}

fn read(file: &FileDescriptor) -> HashMap<Vec<i32>, String> {
    let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|it| &it.location);
    locations.filter_map(|it| Some((it.path.clone(), text(it)?))).collect()
}

/// The comment before, else the one behind; each line less the blank after its slashes.
fn text(location: &Location) -> Option<String> {
    let both = [&location.leading_comments, &location.trailing_comments];
    let found = both.into_iter().flatten().find(|it| !it.trim().is_empty())?;
    let lines: Vec<&str> = found.lines().map(|it| it.strip_prefix(' ').unwrap_or(it).trim_end()).collect();
    Some(lines.join("\n").trim().to_owned())
}

/// Splits off the first sentence, for a place that has a line.
pub(super) fn first_sentence(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let end = paragraph.find(". ").or_else(|| paragraph.strip_suffix('.').map(str::len)).unwrap_or(paragraph.len());
    paragraph[..end].trim().to_owned()
}
