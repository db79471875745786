//! Several checks as one.

use std::future::pending;

use evenkeel::health::{All, Any};

use super::*;

#[derive(Debug)]
struct Says(CheckReport);

impl HealthCheck for Says {
    fn check<'a>(&'a self, _: &'a Target) -> CheckFuture<'a> {
        Box::pin(async { self.0.clone() })
    }
}

#[derive(Debug)]
struct Hangs;

impl HealthCheck for Hangs {
    fn check<'a>(&'a self, _: &'a Target) -> CheckFuture<'a> {
        Box::pin(pending())
    }
}

fn passes() -> Says {
    Says(CheckReport::pass("L7OK", "200"))
}

fn fails(detail: &'static str) -> Says {
    Says(CheckReport::fail("L7STS", detail))
}

async fn run(checks: &impl HealthCheck) -> CheckReport {
    check(checks, backend("a", refused())).await
}

#[tokio::test]
async fn all_must_pass_and_the_first_failure_is_named() {
    let report = run(&All::new().with("app", passes()).with("db", passes())).await;
    assert!(report.is_pass());
    // It does not wait for what hangs.
    let checks = All::new().with("slow", Hangs).with("db", fails("503"));
    let report = run(&checks).await;
    assert_eq!(
        (
            report.is_pass(),
            report.reason().code,
            &*report.reason().detail
        ),
        (false, "L7STS", "db: 503")
    );
    assert!(run(&All::new()).await.is_pass());
    assert_eq!(format!("{checks:?}"), r#"All(["slow", "db"])"#);
}

#[tokio::test]
async fn the_worst_passing_report_is_the_result() {
    let degraded = |share| Says(CheckReport::degraded(share, "L7OK", "busy"));
    let checks = All::new()
        .with("a", degraded(0.5))
        .with("b", degraded(0.25))
        .with("c", passes());
    let report = run(&checks).await;
    assert_eq!(
        (report.capacity(), &*report.reason().detail),
        (0.25, "b: busy")
    );
    let report = run(&checks.with("d", Says(CheckReport::drain("L7OK", "404")))).await;
    assert!(report.is_draining());
    let blamed = Says(CheckReport::fail("L7STS", "503").with_dependency("postgres"));
    let report = run(&All::new().with("app", blamed)).await;
    assert_eq!(report.dependency().map(|d| &**d), Some("postgres"));
}

#[tokio::test]
async fn one_pass_is_enough_and_a_failure_names_all_checks() {
    let checks = Any::new()
        .with("slow", Hangs)
        .with("old", fails("404"))
        .with("new", passes());
    let report = run(&checks).await;
    assert_eq!(
        (report.is_pass(), &*report.reason().detail),
        (true, "new: 200")
    );
    let report = run(&Any::new()
        .with("old", fails("404"))
        .with("new", fails("500")))
    .await;
    assert_eq!(
        (report.is_pass(), &*report.reason().detail),
        (false, "old, new: 404")
    );
    assert!(!run(&Any::new()).await.is_pass());
}

#[tokio::test]
async fn a_check_that_could_not_be_made_counts_if_the_others_do_not_decide() {
    let unmade = || Says(CheckReport::local("SOCKERR", "EMFILE"));
    let all = |other| All::new().with("db", unmade()).with("app", other);
    let any = |other| Any::new().with("db", unmade()).with("app", other);
    for (report, local, pass) in [
        (run(&all(passes())).await, true, false),
        (run(&all(fails("503"))).await, false, false),
        (run(&any(passes())).await, false, true),
        (run(&any(fails("503"))).await, true, false),
    ] {
        assert_eq!(
            (report.is_local(), report.is_pass()),
            (local, pass),
            "{report:?}"
        );
        if local {
            assert_eq!(&*report.reason().detail, "db: EMFILE");
        }
    }
}
