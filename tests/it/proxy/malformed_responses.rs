//! The table of the docs, row by row: what a client gets for what a backend answers.

use evenkeel::{Backend, context::Selected, proxy::Proxy, respond::RespondLayer};
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::{Layer, ServiceExt};

use crate::support::bytes_of;

/// Answers one request with these bytes, and closes.
async fn backend(answer: Vec<u8>) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1_024];
        assert_ne!(stream.read(&mut request).await.unwrap(), 0);
        stream.write_all(&answer).await.unwrap();
    });
    Backend::new("a", &url).unwrap()
}

#[tokio::test]
async fn malformed_responses_match_the_table_of_the_docs() {
    let table = include_str!("../../../src/proxy/malformed_responses.md");
    let rows: Vec<_> = table.lines().skip(2).collect();
    assert!(rows.len() > 20, "the table is there");
    for row in rows {
        let mut cells = row.split(" | ");
        let shown = cells.next().unwrap();
        let shown = shown.trim_start_matches("| `").trim_end_matches('`');
        let status: u16 = cells.next().unwrap().trim().parse().unwrap();
        let backend = backend(bytes_of(shown)).await;
        let mut request = Request::get("/")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        request.extensions_mut().insert(Selected(backend));
        let service = RespondLayer::new().layer(Proxy::new());
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{shown}");
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if status == 200 {
            assert_eq!(body, "ok", "{shown}");
        }
        assert!(!head.headers.contains_key("connection"), "{shown}");
        if shown.contains("content-length") && status == 200 && !shown.contains("chunked") {
            assert_eq!(head.headers["content-length"], "2", "{shown}: once");
        }
    }
}
