//! The table.

use std::time::Duration;

use crate::{
    load::{Part, SESSIONS},
    stage::{NAMES, RATE, Row},
};

pub(crate) fn begin(failover: bool) {
    let with = if failover { "with" } else { "WITHOUT" };
    let backends = NAMES.len();
    say(&format!(
        "{backends} backend processes, {RATE} requests a second, half of them from {SESSIONS} sticky clients, {with} failover.\n"
    ));
    say(&line(
        "what happens",
        ["requests", "failed", "slowest", "noticed", "moved"],
        "",
    ));
}

/// Prints a line.
pub(crate) fn row(row: &Row, part: &Part) {
    let failed = match (row.may_fail, part.failed) {
        (true, failed) if failed > 0 => format!("({failed})"),
        (_, failed) => failed.to_string(),
    };
    let moved = part.moves.iter().filter(|n| **n > 0).count();
    let twice = part.moves.iter().filter(|n| **n > 1).count();
    let mut remarks = Vec::new();
    if part.refused > 0 {
        remarks.push(format!("{} told to come back later", part.refused));
    }
    if twice > 0 {
        remarks.push(format!("{twice} moved more than once"));
    }
    if !row.remark.is_empty() {
        remarks.push(row.remark.clone());
    }
    let noticed = match (&row.awaited, row.noticed) {
        (None, _) => String::new(),
        (Some(_), Some(time)) => millis(time),
        (Some(_), None) => "not at all".into(),
    };
    say(&line(
        &row.what,
        [
            &part.requests.to_string(),
            &failed,
            &millis(part.slowest),
            &noticed,
            &moved.to_string(),
        ],
        &remarks.join(", "),
    ));
}

/// Sums up; returns how many requests failed that should not have.
pub(crate) fn end(parts: &[(Row, Part)]) -> usize {
    let all: usize = parts.iter().map(|(_, part)| part.requests).sum();
    let must_not = || parts.iter().filter(|(row, _)| !row.may_fail);
    let failed = must_not().map(|(_, part)| part.failed).sum();
    let first = must_not().find_map(|(_, part)| part.first_failure.as_ref());
    say(&match first {
        None => format!("\n{all} requests, and none failed that could be answered."),
        Some(first) => format!("\n{failed} of {all} requests FAILED, the first with: {first}"),
    });
    failed
}

fn line(what: &str, columns: [&str; 5], remark: &str) -> String {
    let [requests, failed, slowest, noticed, moved] = columns;
    let text =
        format!("{what:<34}{requests:>9}{failed:>8}{slowest:>10}{noticed:>12}{moved:>7}  {remark}");
    text.trim_end().to_owned()
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[expect(clippy::print_stdout, reason = "an example talks to people")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}
