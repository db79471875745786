//! `edge` with `[listen.tls.acme]`.

use super::process::{Backend, Process};
use crate::support::{
    pebble::{Options, Pebble, exchange},
    pki,
    redis::RedisServer,
};

#[tokio::test]
async fn edge_obtains_serves_and_goes_on_at_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    obtains_serves_and_goes_on(state.to_str().unwrap(), "").await;
}

#[tokio::test]
async fn edge_keeps_its_certificates_in_a_real_redis() {
    if let Some(server) = RedisServer::start() {
        let fleet = format!("[fleet]\nredis = {:?}\n", server.url());
        obtains_serves_and_goes_on("redis", &fleet).await;
    }
}

async fn obtains_serves_and_goes_on(storage: &str, fleet: &str) {
    let Some(pebble) = Pebble::start(Options::default()).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.pem"), pebble.roots_of_directory()).unwrap();
    let backend = Backend::start("a").await;
    let text = |challenge: &str| {
        format!(
            "[server]\nthreads = 2\n[[listen]]\naddress = \"{}\"\n[[listen]]\naddress = \"{}\"\n\
             [listen.tls]\n[listen.tls.acme]\ndomains = [\"a.test www.a.test\", \"b.test\"]\n\
             agree_to_terms = true\nstorage = {storage:?}\nemail = \"me@a.test\"\n\
             directory = \"https://{}/dir\"\nca = {:?}\nchallenges = [\"{challenge}\"]\n[pool]\n{}{fleet}",
            pebble.http,
            pebble.tls,
            pebble.front.address,
            path("ca.pem"),
            backend.settings(),
        )
    };
    let file = path("edge.toml");
    std::fs::write(&file, text("http-01")).unwrap();
    let arguments = [file.to_str().unwrap()];
    let mut edge = Process::start("edge", &arguments);
    edge.line("certificate obtained").await;
    edge.line("certificate obtained").await;
    let client = pebble.client().await;
    let visit = async |name: &str| {
        let stream = pki::connect(pebble.tls, client.clone(), name)
            .await
            .unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let request = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        let answer = exchange(stream, request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        certificate.into_owned()
    };
    let first = visit("www.a.test").await;
    visit("b.test").await;

    // A reload leaves them in force, also where its section changed.
    edge.signal("-HUP");
    edge.line("what runs is as they say").await;
    std::fs::write(&file, text("tls-alpn-01")).unwrap();
    edge.signal("-HUP");
    edge.line("that needs a restart").await;
    assert_eq!(visit("a.test").await, first);
    edge.signal("-TERM");
    edge.must_succeed().await;

    // The next process serves them at once, and obtains another by the other challenge.
    let orders = pebble.front.state.orders();
    let more = text("tls-alpn-01").replace("\"b.test\"", "\"b.test\", \"c.test\"");
    std::fs::write(&file, more).unwrap();
    let mut edge = Process::start("edge", &arguments);
    edge.line("certificate obtained").await;
    assert_eq!(visit("a.test").await, first);
    visit("c.test").await;
    assert_eq!(pebble.front.state.orders(), orders + 1);
    edge.signal("-TERM");
    edge.must_succeed().await;
}
