//! Two balancers in a row: the client's address reaches the second by the PROXY protocol.

use std::fs;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{
    edge::{ONE_LISTENER, Settings},
    process::{Backend, Process},
};

#[tokio::test]
async fn the_client_reaches_the_second_balancer() {
    let a = Backend::start("a").await;
    for example in ["edge", "axum"] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.jsonl");
        let inner = ONE_LISTENER.replace(
            "[pool]",
            "proxy_protocol = { trusted = [\"127.0.0.1\"] }\n[pool]",
        );
        let inner = format!("{inner}{}[access_log]\nfile = {log:?}\n", a.settings());
        let inner = Settings::new(&inner);
        let mut inner = Process::start(example, &[&inner.file()]);
        let address = inner.address("listening on http://").await;
        let outer = format!(
            "{ONE_LISTENER}[[pool.backends]]\nid = \"inner\"\nurl = \"http://{address}\"\n\
             [health]\npath = \"/health\"\n[proxy]\nsend_proxy_protocol = \"v2\"\n",
        );
        let outer = Settings::new(&outer);
        let mut outer = Process::start("edge", &[&outer.file()]);
        let front = outer.address("listening on http://").await;

        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 9], 0).into()).unwrap();
        let answer = ask(socket.connect(front).await.unwrap(), "/through").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // Without a header: closed.
        let direct = ask(TcpStream::connect(address).await.unwrap(), "/direct").await;
        assert_eq!(direct, "", "{example}");

        for process in [&mut outer, &mut inner] {
            process.signal("-TERM");
            process.must_succeed().await;
        }
        let log = fs::read_to_string(log).unwrap();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let through = lines
            .clone()
            .find(|line| line["path"] == "/through")
            .expect(&log);
        assert_eq!(through["client"], "127.0.0.9", "{through}");
        assert_eq!(through["peer"], "127.0.0.1", "{through}");
        let check = lines
            .clone()
            .find(|line| line["path"] == "/health")
            .expect(&log);
        assert_eq!(check["client"], "127.0.0.1", "{check}");
        assert!(!log.contains("/direct"), "{log}");
        // The example `axum` logs requests only.
        if example == "edge" {
            let mut lines = lines;
            let refused = lines.find(|line| line["outcome"] == "proxy_header");
            assert_eq!(refused.expect(&log)["client"], "127.0.0.1");
        }
    }
}

async fn ask(mut stream: TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset ends the answer as well.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
