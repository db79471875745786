//! Python's `ssl`.

use super::{openssl::OWN, *};

#[tokio::test]
async fn python_speaks_both_versions_of_http_resumes_and_shows_its_certificate() {
    let site = Site::start().await;
    let script = site.path("client.py");
    std::fs::write(&script, include_str!("client.py")).unwrap();
    let args = [&*script, &site.port.to_string(), &site.path("")];
    let Some(seen) = run("python3", &args, b"").await else {
        return;
    };
    let wanted = ["TLSv1.2", "TLSv1.3"].map(|version| {
        [
            format!("{version} http/1.1 False"),
            format!("{version} http/1.1 True"),
            format!("{version} h2 False"),
            format!("{version} h2 True"),
            OWN.to_owned(),
            OWN.to_owned(),
            "certificates=0 client=-".to_owned(),
        ]
    });
    let wanted = wanted.concat();
    // The client's own words come before the answer of the server, which agrees.
    site.seen(
        &seen,
        &wanted.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    for answer in seen.lines().filter(|line| line.contains("alpn=")) {
        let resumed = answer.contains(" True ");
        assert_eq!(answer.contains("resumed=true"), resumed, "{answer}");
        let alpn = answer.split(' ').nth(1).unwrap();
        assert!(answer.contains(&format!("alpn={alpn} ")), "{answer}");
    }
    assert_eq!(seen.matches("refused: ").count(), 2, "{seen}");
}
