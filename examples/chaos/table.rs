//! The table.

use std::time::Duration;

use crate::{
    experiment::{NAMES, RATE, Row},
    load::{Phase, SESSIONS},
};

pub(crate) fn begin(failover: bool) {
    let with = if failover { "with" } else { "WITHOUT" };
    let backends = NAMES.len();
    print(&format!(
        "{backends} backend processes, {RATE} requests a second, half of them from {SESSIONS} sticky clients, {with} failover.\n"
    ));
    print(&line(
        "what happens",
        ["requests", "failed", "slowest", "noticed", "moved"],
        "",
    ));
}

/// Prints a line.
pub(crate) fn row(row: &Row, phase: &Phase) {
    let failed = match (row.may_fail, phase.failed) {
        (true, failed) if failed > 0 => format!("({failed})"),
        (_, failed) => failed.to_string(),
    };
    let moved = phase.moves.iter().filter(|n| **n > 0).count();
    let twice = phase.moves.iter().filter(|n| **n > 1).count();
    let mut remarks = Vec::new();
    if phase.refused > 0 {
        remarks.push(format!("{} told to come back later", phase.refused));
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
    print(&line(
        &row.what,
        [
            &phase.requests.to_string(),
            &failed,
            &millis(phase.slowest),
            &noticed,
            &moved.to_string(),
        ],
        &remarks.join(", "),
    ));
}

/// Sums up; returns how many requests failed that should not have.
pub(crate) fn end(phases: &[(Row, Phase)]) -> usize {
    let all: usize = phases.iter().map(|(_, phase)| phase.requests).sum();
    let must_not = || phases.iter().filter(|(row, _)| !row.may_fail);
    let failed = must_not().map(|(_, phase)| phase.failed).sum();
    let first = must_not().find_map(|(_, phase)| phase.first_failure.as_ref());
    print(&match first {
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
pub(crate) fn print(text: &str) {
    println!("{text}");
}
