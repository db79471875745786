use std::collections::BTreeMap;

use super::{
    client::{get, get_tls, insecure},
    process::Process,
};

#[tokio::test]
async fn it_shows_that_no_request_fails_and_ends_with_a_signal() {
    let mut shown = Process::start("quickstart", &[]);
    let https = shown.address("https://").await;
    let http = shown.address("http://").await;
    let answer = get(http, "/x").await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), format!("https://{https}/x"));
    let first = get_tls(https, insecure(), "/", "").await;
    let cookie = first.header("set-cookie").split(';').next().unwrap();
    let again = get_tls(https, insecure(), "/", cookie).await;
    assert_eq!(again.backend(), first.backend(), "the cookie stays put");
    let logged = shown.line("\"sticky\":\"valid\"").await;
    assert!(logged.contains("\"tls_version\":\"TLSv1.3\""), "{logged}");

    shown.line("backend b is stopped").await;
    shown.line("backend b: healthy -> unhealthy").await;
    shown.line("backend b is started").await;
    shown.line("backend b: unhealthy -> healthy").await;
    let said = shown.line("requests, and none failed").await;
    assert!(said.starts_with("600 "), "{said}");
    // Round robin; the one that came back warms up, from a tenth of the others' share.
    let mut counts = BTreeMap::<_, u32>::new();
    for _ in 0..40 {
        let backend = get_tls(https, insecure(), "/", "").await.backend();
        *counts.entry(backend).or_default() += 1;
    }
    let counts: Vec<_> = ["a", "b", "c"].map(|id| counts[id]).into();
    assert!(counts[0].abs_diff(counts[2]) <= 2, "{counts:?}");
    assert!((1..=counts[0] + 1).contains(&counts[1]), "{counts:?}");
    shown.signal("-TERM");
    shown.must_succeed().await;
}

#[tokio::test]
async fn it_ends_in_the_middle_and_finds_free_ports() {
    // Whichever of the two comes second finds the usual ports taken.
    let (mut one, mut other) = (
        Process::start("quickstart", &[]),
        Process::start("quickstart", &[]),
    );
    let (first, second) = (
        one.address("https://").await,
        other.address("https://").await,
    );
    assert_ne!(first, second);
    one.line("answered by").await;
    one.signal("-INT");
    one.must_succeed().await;
    other.line("answered by").await;
    other.signal("-TERM");
    other.must_succeed().await;
}
