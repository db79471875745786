//! Interim responses of a backend, on their way to the client's queue.

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::{net::TcpListener, time::timeout};
use tower_service::Service;

use crate::{
    Backend, Error, ErrorKind,
    context::{InterimQueue, Selected},
    pool::Protocol,
    proxy::{Body, Proxy},
};

/// Plays a backend that answers one request, and asks it through the proxy.
async fn ask(
    play: impl FnOnce(SendResponse<Bytes>) + Send + 'static,
) -> (Result<Response<Body>, Error>, Vec<(StatusCode, HeaderMap)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_, respond) = connection.accept().await.unwrap().unwrap();
        play(respond);
        while connection.accept().await.is_some() {}
    });
    let backend = Backend::new("a", &url).unwrap().protocol(Protocol::Http2);
    let mut queue = InterimQueue::new();
    let mut request = Request::get("/")
        .header("host", "a")
        .body(Empty::new())
        .unwrap();
    request.extensions_mut().insert(Selected(backend));
    queue.begin(true).note(request.extensions_mut());
    let answer = timeout(PATIENCE, Proxy::new().call(request)).await.unwrap();
    let mut passed = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(interim) = queue.poll_next(&mut cx) {
        passed.push(interim);
    }
    (answer, passed)
}

fn interim(status: u16) -> Response<()> {
    let response = Response::builder().status(status);
    response
        .header("link", " </a>; rel=preload\t")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn interim_responses_go_to_the_client_and_the_final_one_follows() {
    let (answer, passed) = ask(|mut respond| {
        for status in [100, 103, 102, 103] {
            respond.send_informational(interim(status)).unwrap();
        }
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    let statuses: Vec<_> = passed.iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!(statuses, [103, 102, 103], "100 is for the proxy");
    assert_eq!(passed[0].1["link"], "</a>; rel=preload", "without blanks");
}

#[tokio::test]
async fn an_endless_row_of_interim_responses_is_no_answer() {
    let (answer, passed) = ask(|mut respond| {
        for _ in 0..101 {
            respond.send_informational(interim(102)).unwrap();
        }
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResponseHead);
    assert_eq!(passed.len(), 8, "a client gets no more");
}

#[tokio::test]
async fn a_switch_of_protocols_does_not_exist_in_http2() {
    let (answer, passed) = ask(|mut respond| {
        respond.send_informational(interim(101)).unwrap();
    })
    .await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ResponseHead);
    assert!(passed.is_empty());
}

const PATIENCE: Duration = Duration::from_secs(30);
