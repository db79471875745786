//! The table of results.

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
    print(COLUMNS);
    print(&line(
        "phase",
        ["requests", "failed", "slowest", "noticed", "moved"],
        "",
    ));
}

/// Prints the line of a phase.
pub(crate) fn row(row: &Row, phase: &Phase) {
    let failed = match (row.may_fail, phase.failed) {
        (true, failed) if failed > 0 => format!("({failed})"),
        (_, failed) => failed.to_string(),
    };
    let moved = phase.moves.iter().filter(|n| **n > 0).count();
    let twice = phase.moves.iter().filter(|n| **n > 1).count();
    let mut remarks = Vec::new();
    if phase.refused > 0 {
        remarks.push(format!("{} refused with Retry-After", phase.refused));
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

/// Prints the sum; returns how many requests failed although a backend could have served them.
pub(crate) fn end(phases: &[(Row, Phase)]) -> usize {
    let all: usize = phases.iter().map(|(_, phase)| phase.requests).sum();
    let must_not = || phases.iter().filter(|(row, _)| !row.may_fail);
    let failed = must_not().map(|(_, phase)| phase.failed).sum();
    let first = must_not().find_map(|(_, phase)| phase.first_failure.as_ref());
    print(&match first {
        None => format!("\n{all} requests; none failed that a backend could have served."),
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

#[expect(clippy::print_stdout, reason = "an example prints its results")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

/// What the columns mean.
const COLUMNS: &str = "\
requests  ended in this phase
failed    of them, without a response of 2xx; in parentheses where no backend was left
slowest   the longest of them, from the call to the end of the body
noticed   from the beginning of the phase until the pool knew of the change
moved     sessions that changed their backend
";
