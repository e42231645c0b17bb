//! How commands that look print what they found.
//!
//! Lives here: the formats and the table's shape. Does not: what is shown (`look`).

use std::{
    fmt::Write as _,
    io::{self, Write, stdout},
};

use comfy_table::{ColumnConstraint, Table, Width, presets};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

/// A format of data on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table for people
    #[default]
    Table,
    /// A table with everything in it
    Wide,
    /// JSON, for programs
    Json,
    /// YAML, for programs and people
    Yaml,
}

/// Writes `data`, or the table that `rows` makes of it: a heading and rows, with more columns where told so.
pub(crate) fn print<const N: usize>(
    format: Format,
    data: &impl Serialize,
    table: impl FnOnce(Format) -> (Vec<&'static str>, Vec<[String; N]>),
) -> anyhow::Result<()> {
    print_text(format, data, || {
        let (heading, rows) = table(format);
        render(&heading, &rows, columns())
    })
}

/// Writes `data`, or the text that says the same to people.
pub(crate) fn print_text(format: Format, data: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(data)?,
        Format::Yaml => serde_saphyr::to_string(data)?.trim_end().to_owned(),
        Format::Table | Format::Wide => text(),
    };
    line(&text)?;
    Ok(())
}

/// How wide the terminal is, where there is one and it says so.
pub(crate) fn columns() -> Option<usize> {
    let columns = tcgetwinsize(stdout()).ok()?.ws_col;
    (columns > 0).then_some(columns.into())
}

/// Blanks around a cell.
const PADDING: usize = 2;

/// A table as wide as the terminal: what does not fit on a line goes on below, in its column. A word is not cut, as it may be an id that somebody wants to
/// copy; where that leaves no room for a table, a row is a block of lines. Off a terminal a row is a line, for programs that read lines.
fn render<const N: usize>(heading: &[&str], rows: &[[String; N]], columns: Option<usize>) -> String {
    let widest = |of: fn(&str) -> usize| -> Vec<usize> {
        let column = |at: usize| rows.iter().map(|row| of(&row[at])).fold(of(heading[at]), usize::max);
        (0..heading.len()).map(column).collect()
    };
    let all = |widths: &[usize]| widths.iter().map(|it| it + PADDING).sum::<usize>();
    let whole = widest(width);
    let widths = match columns {
        Some(columns) if all(&whole) > columns => {
            let words = widest(|text| text.split(' ').map(width).max().unwrap_or_default());
            match columns.checked_sub(all(&words)) {
                Some(spare) => Some(stretched(words, &whole, spare)),
                None => return blocks(heading, rows, columns),
            }
        }
        _ => None, // as wide as they are
    };
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heading);
    for row in rows {
        table.add_row(&row[..heading.len()]);
    }
    let fixed = |width| ColumnConstraint::Absolute(Width::Fixed(u16::try_from(width + PADDING).unwrap_or(u16::MAX)));
    if let Some(widths) = widths {
        table.set_constraints(widths.into_iter().map(fixed));
    }
    table.trim_fmt()
}

/// Widths with so much more room, given to the columns that lack most.
fn stretched(mut widths: Vec<usize>, wanted: &[usize], spare: usize) -> Vec<usize> {
    for _ in 0..spare {
        let most = (0..widths.len()).max_by_key(|at| wanted[*at].saturating_sub(widths[*at]));
        if let Some(at) = most {
            widths[at] += 1;
        }
    }
    widths
}

/// Rows as `HEADING  value`, a line each, with an empty line between two rows.
fn blocks<const N: usize>(heading: &[&str], rows: &[[String; N]], columns: usize) -> String {
    let label = heading.iter().map(|it| width(it)).max().unwrap_or_default() + PADDING;
    let mut text = String::new();
    for (place, row) in rows.iter().enumerate() {
        text.push_str(if place == 0 { "" } else { "\n" });
        for (name, value) in heading.iter().zip(row) {
            write!(text, "{name:label$}").expect("a String takes what is written to it");
            let mut at = label;
            for word in value.split(' ') {
                if at > label && at + 1 + width(word) > columns {
                    write!(text, "\n{:label$}", "").expect("a String takes what is written to it");
                    at = label;
                } else if at > label {
                    text.push(' ');
                    at += 1;
                }
                text.push_str(word);
                at += width(word);
            }
            text.push('\n');
        }
    }
    text.trim_end().to_owned()
}

/// Columns of a text on a terminal, as the table counts them: two for most characters of East Asia, none for a mark above another.
fn width(text: &str) -> usize {
    text.width()
}

/// Writes one line to stdout; an error means that nobody reads it any more.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: [&str; 5] = ["NAME", "STATE", "ADDRESSES", "INSTANCE", "WHY"];
    const ID: &str = "0197a1b2-0000-7000-8000-000000000001";

    fn rows() -> Vec<[String; 6]> {
        let addresses = "admin=127.0.0.1:45101 inbound=127.0.0.1:45102 outbound=127.0.0.1:45103";
        let row = |name: &str, why: &str| [name, "serving", addresses, ID, why, "of no column"].map(str::to_owned);
        vec![row("users-1", "-"), row("users-2", "the app says so, for a reason that takes some words")]
    }

    #[test]
    fn off_a_terminal_a_row_is_a_line() {
        let text = render(&HEADING, &rows(), None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[2].contains(ID) && lines[2].ends_with("takes some words"), "{text}");
        assert_eq!(text, render(&HEADING, &rows(), Some(400)), "as on a wide one");
    }

    #[test]
    fn a_table_keeps_to_the_terminal_and_cuts_no_word() {
        for columns in 40..250 {
            let text = render(&HEADING, &rows(), Some(columns));
            let wide = text.lines().find(|line| width(line) > columns);
            assert!(wide.is_none() || columns < 11 + ID.len(), "{columns} columns:\n{text}");
            for row in &rows() {
                for word in row[..5].iter().flat_map(|cell| cell.split(' ')) {
                    assert!(
                        text.split_whitespace().any(|it| it == word),
                        "{word} is cut at {columns} columns:\n{text}"
                    );
                }
            }
            assert!(!text.contains("of no column"));
        }
    }

    #[test]
    fn wide_characters_keep_to_the_terminal_and_are_not_cut() {
        let why = "サービスが 応答しません 再起動 してください";
        let rows = [["用户-1", why, "cafe\u{301}"], ["users-2", "-", "ok"]].map(|row| row.map(str::to_owned));
        for columns in 18..80 {
            let text = render(&["NAME", "WHY", "WHO"], &rows[..], Some(columns));
            assert!(text.lines().all(|line| width(line) <= columns), "{columns} columns:\n{text}");
            for word in rows.iter().flatten().flat_map(|cell| cell.split(' ')) {
                assert!(text.split_whitespace().any(|it| it == word), "{word} is cut at {columns} columns:\n{text}");
            }
        }
        let text = render(&["NAME", "WHY", "WHO"], &rows[..], None);
        let starts = |line: &str, cell: &str| line.find(cell).map(|at| width(&line[..at]));
        let lines: Vec<&str> = text.lines().collect();
        let places = [starts(lines[0], "WHO"), starts(lines[1], "cafe\u{301}"), starts(lines[2], "ok")];
        assert!(places[0].is_some() && places.iter().all(|it| *it == places[0]), "{places:?}\n{text}");
    }

    #[test]
    fn where_a_table_has_no_room_a_row_is_a_block() {
        let text = render(&HEADING, &rows()[..1], Some(60));
        let wanted = format!(
            "NAME       users-1\nSTATE      serving\nADDRESSES  admin=127.0.0.1:45101 inbound=127.0.0.1:45102\n           \
             outbound=127.0.0.1:45103\nINSTANCE   {ID}\nWHY        -"
        );
        assert_eq!(text, wanted);
        let text = render(&HEADING, &rows(), Some(60));
        assert_eq!(text.split("\n\n").count(), 2, "{text}");
    }
}
