//! A report as a person reads it: by group, √ for what is well, ‼ for what to look at, × for what is broken, each with its cure.
//!
//! Lives here: the text. Does not: printing it, knowing whether there is a terminal (`weft-cli`).

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use crate::{
    ids::Group,
    report::{Outcome, Report, Status},
};

/// How the text looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// A line for each subject that is well, too; else one for each check.
    pub wide: bool,
    /// Colours, for a terminal.
    pub colour: bool,
    /// Columns of the terminal: longer lines are broken between words and go on below their text. None leaves them whole.
    pub columns: Option<usize>,
}

/// Where what goes on begins.
const BELOW: &str = "      ";

/// Returns the whole text, without a line end.
pub fn render(report: &Report, look: Look) -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let outcomes: Vec<_> = report.checks.iter().filter(|it| it.group == group).collect();
        if outcomes.is_empty() {
            continue;
        }
        line(&mut text, look, format_args!("{}", group.title()));
        for (place, outcome) in outcomes.iter().enumerate() {
            let same = |it: &&&Outcome| it.id == outcome.id && it.status == outcome.status;
            let folds = !look.wide && outcome.status == Status::Ok;
            match folds {
                true if outcomes[..place].iter().any(|it| same(&it)) => {}
                true => well(&mut text, outcome, outcomes.iter().filter(same).count(), look),
                false => one(&mut text, outcome, look),
            }
        }
        text.push('\n');
    }
    text.push_str(&folded(&summary(report), look.columns));
    text
}

/// So many of something, which is called so where it is one, and so where it is not.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// One line for all subjects of a check that are well.
fn well(text: &mut String, outcome: &Outcome, subjects: usize, look: Look) {
    if subjects == 1 {
        return one(text, outcome, look);
    }
    line(text, look, format_args!("  {} {} ({subjects})", mark(Status::Ok, look), outcome.title));
}

fn one(text: &mut String, outcome: &Outcome, look: Look) {
    let Outcome { id, title, status, subject, detail, cure, .. } = outcome;
    let subject = if subject.is_empty() { String::new() } else { format!(": {subject}") };
    let detail = if detail.is_empty() { String::new() } else { format!(" ({})", detail.replace('\n', " ")) };
    match status {
        Status::Ok | Status::Skipped => {
            line(text, look, format_args!("  {} {title}{subject}{detail}", mark(*status, look)))
        }
        Status::Warning | Status::Failed => {
            line(text, look, format_args!("  {} {title}{subject}", mark(*status, look)));
            line(text, look, format_args!("      {id}{detail}"));
            line(text, look, format_args!("      {cure}"));
        }
    }
}

fn mark(status: Status, look: Look) -> String {
    let (mark, colour) = match status {
        Status::Ok => ("√", 32),
        Status::Warning => ("‼", 33),
        Status::Failed => ("×", 31),
        Status::Skipped => ("-", 2),
    };
    if look.colour { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() }
}

fn summary(report: &Report) -> String {
    let of = |status| report.count(status);
    let mut text = format!("{} passed", counted(of(Status::Ok), "check", "checks"));
    for (status, what) in [(Status::Warning, "to look at"), (Status::Failed, "failed"), (Status::Skipped, "skipped")] {
        if of(status) > 0 {
            write!(text, ", {} {what}", of(status)).expect("a String takes what is written to it");
        }
    }
    if of(Status::Warning) + of(Status::Failed) > 0 {
        text.push_str("; `weft check --explain ID` says more");
    }
    text
}

fn line(text: &mut String, look: Look, what: std::fmt::Arguments<'_>) {
    text.push_str(&folded(&what.to_string(), look.columns));
    text.push('\n');
}

/// Breaks a line between words where it would go beyond the last column. A longer word stays whole.
fn folded(line: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns.filter(|columns| *columns < width(line)) else { return line.to_owned() };
    let start = line.len() - line.trim_start().len();
    let (mut text, mut at) = (line[..start].to_owned(), start);
    for (place, word) in line[start..].split(' ').enumerate() {
        let width = width(word);
        if place > 0 && at + 1 + width > columns {
            text.extend(["\n", BELOW]);
            at = BELOW.len();
        } else if place > 0 {
            text.push(' ');
            at += 1;
        }
        text.push_str(word);
        at += width;
    }
    text
}

/// Columns of a text on a terminal: a colour takes none, most characters of East Asia take two.
fn width(text: &str) -> usize {
    let mut parts = text.split('\x1b');
    let plain = parts.next().map_or(0, UnicodeWidthStr::width);
    plain + parts.map(|it| it.split_once('m').map_or(0, |(_, rest)| rest.width())).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids;

    fn report() -> Report {
        Report::of(vec![
            ids::REGISTRY.ok("http://127.0.0.1:7100", "2 services, 3 instances"),
            ids::APP.ok("users-1", ""),
            ids::APP.ok("users-2", ""),
            ids::APP.failed("posts-1", "no answer"),
            ids::VERSIONS.warning("gateway", "is 0.0.1"),
            ids::PROBE.skipped("", "no gateway takes calls"),
        ])
    }

    #[test]
    fn what_is_well_folds_and_what_is_not_brings_its_cure() {
        let text = render(&report(), Look::default());
        let wanted = format!(
            "this machine\n  ‼ one version of weft: gateway\n      WEFT0109 (is 0.0.1)\n      {}\n\n\
             registry\n  √ answers: http://127.0.0.1:7100 (2 services, 3 instances)\n\n\
             services\n  √ the app answers its health check (2)\n  × the app answers its health check: posts-1\n      WEFT0402 (no answer)\n      {}\n\n\
             path\n  - a call reaches the app (no gateway takes calls)\n\n\
             3 checks passed, 1 to look at, 1 failed, 1 skipped; `weft check --explain ID` says more",
            ids::VERSIONS.cure,
            ids::APP.cure
        );
        assert_eq!(text, wanted);
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(
            [0, 1, 2].map(|count| counted(count, "policy", "policies")),
            ["0 policies", "1 policy", "2 policies"]
        );
        let one = Report::of(vec![ids::REGISTRY.ok("", "")]);
        assert!(render(&one, Look::default()).ends_with("1 check passed"));
    }

    #[test]
    fn wide_names_every_subject_and_colour_is_only_where_wanted() {
        let wide = render(&report(), Look { wide: true, ..Look::default() });
        assert!(wide.contains("  √ the app answers its health check: users-2\n") && !wide.contains('\x1b'));
        let coloured = render(&report(), Look { colour: true, ..Look::default() });
        assert!(coloured.contains("\x1b[31m×\x1b[0m"));
    }

    #[test]
    fn a_line_is_broken_between_words_where_the_terminal_ends() {
        let fold = |line: &str, columns| folded(line, Some(columns));
        assert_eq!(fold("  √ is ready (in time)", 22), "  √ is ready (in time)");
        assert_eq!(fold("  √ is ready (in time)", 21), "  √ is ready (in\n      time)");
        assert_eq!(fold("  \x1b[32m√\x1b[0m is ready", 12), "  \x1b[32m√\x1b[0m is ready", "colours take no room");
        assert_eq!(fold("  √ 本番 本番 x", 12), "  √ 本番\n      本番 x", "two columns each");
        assert_eq!(fold("      http://127.0.0.1:7100 ends", 10), "      http://127.0.0.1:7100\n      ends");
        let text = render(&report(), Look { columns: Some(60), ..Look::default() });
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }
}
