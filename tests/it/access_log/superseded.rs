//! A layer that gives a request up and answers it is not a client that goes away.

use std::future::{IntoFuture, pending};

use evenkeel::{LoadBalancer, Pool, health::HealthLayer};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_http::timeout::TimeoutLayer;

use super::*;
use crate::support::Origin;

fn limit(time: Duration) -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, time)
}

/// A stack over a backend that never answers, with a log or without one.
async fn hanging(log: Option<AccessLogLayer>) -> (LoadBalancer, Origin) {
    let origin = Origin::serve(|_| pending()).await;
    let pool = Pool::new([Backend::new("a", &origin.url()).unwrap()]).unwrap();
    let builder = LoadBalancer::builder(pool.clone());
    let health = HealthLayer::new(pool).no_checks();
    let builder = builder.health(health).unwrap();
    let builder = match log {
        Some(log) => builder.access_log(log),
        None => builder,
    };
    (builder.build(), origin)
}

/// Sends a request over HTTP/1.1 or HTTP/2; returns the status.
async fn ask(address: std::net::SocketAddr, http2: bool) -> StatusCode {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let request = Request::get(format!("http://{address}/"))
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())
        .unwrap();
    // The connection is closed as this call returns.
    let mut running = tokio::task::JoinSet::new();
    let response = if http2 {
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut send, connection) = shaken.unwrap();
        running.spawn(connection);
        send.send_request(request).await
    } else {
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        running.spawn(connection);
        send.send_request(request).await
    };
    response.unwrap().status()
}

#[tokio::test]
async fn a_time_out_layer_above_the_log_has_a_line_with_its_status() {
    let log = Log::new();
    let (balancer, _origin) = hanging(Some(log.layer())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limited = limit(Duration::from_millis(50)).layer(balancer);
    // The layer starts its timer before it calls the log, and the thread may be interrupted in
    // between. A record that begins above the layer holds the whole time.
    let begin = |mut request: Request<evenkeel::server::Body>| {
        Exchange::of(request.extensions_mut());
        request
    };
    let service = tower::util::MapRequest::new(limited, begin);
    let serving = tokio::spawn(evenkeel::serve(listener, service).into_future());
    for http2 in [false, true] {
        assert_eq!(ask(address, http2).await, StatusCode::GATEWAY_TIMEOUT);
        let line = log.next().await;
        assert_eq!(line["outcome"], "timeout", "{line}");
        assert_eq!(line["status"], 504, "{line}");
        assert!(line["ttfb_ms"].as_f64() >= Some(50.0), "{line}");
        assert_eq!(line["backend"], "a", "{line}");
    }
    serving.abort();
}

#[tokio::test]
async fn the_time_limit_of_the_server_has_a_line_with_its_status() {
    let log = Log::new();
    let (balancer, _origin) = hanging(Some(log.layer())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = evenkeel::serve(listener, balancer);
    let serve = serve.http(|http| http.request_timeout(Duration::from_millis(50)));
    let serving = tokio::spawn(serve.unwrap().into_future());
    for http2 in [false, true] {
        assert_eq!(ask(address, http2).await, StatusCode::GATEWAY_TIMEOUT);
        let line = log.next().await;
        assert_eq!(line["outcome"], "timeout", "{line}");
        assert_eq!(line["status"], 504, "{line}");
    }
    serving.abort();
}

#[tokio::test]
async fn a_client_that_goes_away_is_a_client_abort() {
    let log = Log::new();
    let (balancer, origin) = hanging(Some(log.layer())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = limit(Duration::from_secs(60)).layer(balancer);
    let serving = tokio::spawn(evenkeel::serve(listener, service).into_future());
    for http2 in [false, true] {
        let before = origin.requests();
        let asking = tokio::spawn(ask(address, http2));
        while origin.requests() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        asking.abort();
        let line = log.next().await;
        assert_eq!(line["outcome"], "client_abort", "{line}");
        assert!(line.get("status").is_none(), "{line}");
    }
    serving.abort();
}

#[tokio::test]
async fn a_response_that_a_layer_replaces_is_superseded() {
    let log = Log::new();
    let fine = service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(body(Some("never read"))))
    });
    let logged = log.layer().layer(fine);
    let replacing = service_fn(move |request: Request<evenkeel::server::Body>| {
        let logged = logged.clone();
        async move {
            drop(logged.oneshot(request).await);
            let mut response = Response::new(Full::<Bytes>::from("none of your business"));
            *response.status_mut() = StatusCode::FORBIDDEN;
            Ok::<_, Infallible>(response)
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(evenkeel::serve(listener, replacing).into_future());
    assert_eq!(ask(address, false).await, StatusCode::FORBIDDEN);
    let line = log.next().await;
    assert_eq!(line["outcome"], "superseded", "{line}");
    assert_eq!(line["status"], 403, "what the client saw: {line}");
    serving.abort();
}

#[tokio::test]
async fn a_time_out_layer_below_the_log_has_a_line_under_any_server() {
    let log = Log::new();
    let (balancer, _origin) = hanging(None).await;
    let service = log
        .layer()
        .layer(limit(Duration::from_millis(50)).layer(balancer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback_service(service);
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let line = log.next().await;
    assert_eq!(line["outcome"], "timeout", "{line}");
    assert_eq!(line["status"], 504, "{line}");
    serving.abort();
}
