//! The table of results.

use std::time::Duration;

use crate::fleet::Row;

pub(crate) fn begin() {
    print(COLUMNS);
    print(&format!(
        "{:<44}{:>9}{:>10}{:>8}{:>14}{:>13}{:>13}{:>11}{:>7}",
        "",
        "requests",
        "in flight",
        "lost",
        "failed",
        "served again",
        "slowest",
        "takeover",
        "moves"
    ));
}

pub(crate) fn scenario(name: &str, what: &str) {
    print(&format!("{name}: {what}"));
}

pub(crate) fn row(row: &Row) {
    let Row {
        what,
        requests,
        in_flight,
        lost,
        failed,
        again,
        slowest,
        takeover,
        moves,
        ..
    } = row;
    let expected = &row.expected;
    let limit = |measured: String, limit: String| format!("{measured} ≤ {limit}");
    let lost = limit(
        lost.to_string(),
        if expected.may_lose { *in_flight } else { 0 }.to_string(),
    );
    let failed = limit(failed.to_string(), expected.failed.to_string());
    let again = limit(
        again.map_or("never".into(), seconds),
        seconds(expected.again),
    );
    let slowest = limit(seconds(*slowest), seconds(expected.slowest));
    let takeover = takeover.map_or(String::new(), |t| format!("{} s", seconds(t)));
    print(&format!(
        "  {what:<42}{requests:>9}{in_flight:>10}{lost:>8}{failed:>14}{again:>13}{slowest:>13}{takeover:>11}{moves:>7}"
    ));
    for violation in row.violations() {
        print(&format!("    NOT AS EXPECTED: {violation}"));
    }
    if !row.violations().is_empty() {
        for failure in &row.failures {
            print(&format!("      {failure}"));
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

#[expect(clippy::print_stdout, reason = "an example prints its results")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

/// What the columns mean.
const COLUMNS: &str = "\
requests      that began in this phase, after the fault
in flight     requests at the moment of the fault
lost          of those in flight; ≤ what is expected at most
failed        of those that began after the fault; ≤ what is expected at most
served again  seconds from the fault until a request that began after it was answered; ≤ at most
slowest       answer, in seconds; ≤ at most. Both limits have twice the slowest answer before any fault on top
takeover      from the fault until the other balancer has the address
moves         of a virtual address
";
