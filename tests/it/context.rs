//! What handlers of axum learn of the connection, whichever server runs them.

use std::{future::IntoFuture, net::SocketAddr};

use axum::{Router, extract::ConnectInfo, routing::get};
use evenkeel::context::{ConnInfo, ConnectInfoLayer};
use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

fn app() -> Router {
    let conn = async |conn: ConnInfo| conn.client().map_or_else(String::new, |c| c.to_string());
    let maybe = async |conn: Option<ConnInfo>| conn.is_some().to_string();
    let address = async |ConnectInfo(client): ConnectInfo<SocketAddr>| client.to_string();
    Router::new()
        .route("/conn", get(conn))
        .route("/maybe", get(maybe))
        .route("/address", get(address))
        .layer(ConnectInfoLayer::new())
}

/// Asks for each path; returns its own address and the bodies.
async fn ask(server: SocketAddr) -> (String, Vec<String>) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let own = stream.local_addr().unwrap().to_string();
    let paths = [
        ("/conn", "keep-alive"),
        ("/maybe", "keep-alive"),
        ("/address", "close"),
    ];
    for (path, connection) in paths {
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: {connection}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let answers = text.split("HTTP/1.1 200 OK\r\n").skip(1);
    let body = |answer: &str| answer.split("\r\n\r\n").nth(1).unwrap().to_owned();
    (own, answers.map(body).collect())
}

#[tokio::test]
async fn a_handler_is_the_same_under_both_servers() {
    for axum in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = match axum {
            false => tokio::spawn(evenkeel::serve(listener, app()).into_future()),
            true => {
                let service = app().into_make_service_with_connect_info::<ConnInfo>();
                tokio::spawn(async move { axum::serve(listener, service).await })
            }
        };
        let (own, answers) = ask(address).await;
        assert_eq!(answers, [&own, "true", &own], "axum: {axum}");
        serving.abort();
    }
}

#[tokio::test]
async fn without_conn_info_the_handler_is_not_called() {
    let status = async |path: &str| {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        app().oneshot(request).await.unwrap().status()
    };
    assert_eq!(status("/conn").await, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(status("/maybe").await, StatusCode::OK);
}
