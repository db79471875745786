//! Interim responses, seen from the queue of the server.

#![cfg(feature = "server")]

use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower_service::Service;

use super::{Body, Proxy};
use crate::{
    Backend, Error, ErrorKind,
    context::{InterimQueue, Selected},
};

/// Sends one request to a backend that answers with these bytes.
async fn exchange(wire: Vec<u8>) -> (Result<Response<Body>, Error>, Vec<(StatusCode, HeaderMap)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // The proxy may have seen enough, and closed.
        let _ = stream.write_all(&wire).await;
        let _ = stream.read_u8().await;
    });
    let mut queue = InterimQueue::new();
    let mut request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
    let backend = Backend::new("a", &format!("http://{address}")).unwrap();
    request.extensions_mut().insert(Selected(backend));
    request.extensions_mut().insert(queue.begin(true));
    let result = Proxy::new().call(request).await;
    let mut passed = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    for interim in queue.poll(&cx).into_iter().flatten() {
        passed.push(interim);
    }
    (result, passed)
}

const FINAL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: final\r\n\r\n";
const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x\r\nx: hop\r\n\r\n";

#[tokio::test]
async fn interim_responses_reach_the_client_without_the_fields_of_the_hop() {
    let wire = [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
        HINTS,
        FINAL,
    ];
    let (result, passed) = exchange(wire.concat()).await;
    assert_eq!(result.unwrap().headers()["x"], "final");
    let statuses: Vec<_> = passed.iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!(statuses, [102, 103], "100 is for the proxy");
    assert!(passed[0].1.is_empty());
    let hints: Vec<_> = passed[1].1.iter().collect();
    assert_eq!(hints.len(), 1);
    assert_eq!(passed[1].1["link"], "</a>");
}

#[tokio::test]
async fn eight_interim_responses_pass_and_a_hundred_are_borne() {
    let (result, passed) = exchange([HINTS.repeat(100), FINAL.to_vec()].concat()).await;
    assert_eq!(result.unwrap().status(), StatusCode::OK);
    assert_eq!(passed.len(), 8);
    let (result, _) = exchange([HINTS.repeat(101), FINAL.to_vec()].concat()).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResponseHead);
    assert!(error.to_string().contains("100 interim"), "{error}");
}

#[tokio::test]
async fn the_status_of_a_malformed_head_is_named() {
    let wire = b"HTTP/1.1 299 Odd\r\ncontent-length: x\r\n\r\n".to_vec();
    let (result, _) = exchange(wire).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResponseHead);
    assert!(error.to_string().contains("status 299"), "{error}");
}
