//! How commands that look print what they found.
//!
//! Lives here: the formats and the table's shape. Does not: what is shown (`look`).

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

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
        render(&heading, rows)
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

/// A table as wide as the terminal: what does not fit on a line goes on below, in its column. Off a terminal a row is a line, for programs that read lines.
fn render<const N: usize>(heading: &[&str], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(heading);
    for row in rows {
        table.add_row(row.into_iter().take(heading.len()));
    }
    table.trim_fmt()
}

/// Writes one line to stdout; an error means that nobody reads it any more.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
