//! Calls of gRPC that the stack answers itself.

use std::future::{IntoFuture, pending};

use evenkeel::{
    Backend, LoadBalancer, Pool, balance::BalanceLayer, failover::FailoverLayer,
    health::HealthLayer, proxy::Proxy,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::support::{Origin, refused};

/// Calls a method of gRPC over HTTP/2; returns the head of the answer, which has to end there.
async fn call(balancer: LoadBalancer, content_type: &str) -> http::response::Parts {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(evenkeel::serve(listener, balancer).into_future());
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut send, connection) = shaken.unwrap();
    let running = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/shop.Cart/Add"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(Full::<Bytes>::from(&b"\0\0\0\0\x02hi"[..]));
    let response = send.send_request(request.unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let ends = http_body::Body::is_end_stream(&body);
    assert_eq!(ends, head.headers.contains_key("grpc-status"), "{head:?}");
    running.abort();
    serving.abort();
    head
}

fn builder(pool: &Pool) -> evenkeel::load_balancer::Builder {
    let builder = LoadBalancer::builder(pool.clone());
    let health = HealthLayer::new(pool.clone()).no_checks();
    builder.health(health).unwrap()
}

#[tokio::test]
async fn it_answers_with_trailers_alone() {
    let dead = format!("http://{}", refused());
    let pool = Pool::new([Backend::new("a", &dead).unwrap()]).unwrap();
    let head = call(builder(&pool).build(), "application/grpc+proto").await;
    assert_eq!(
        head.status,
        StatusCode::OK,
        "a call's status is in its trailers"
    );
    assert_eq!(head.headers["grpc-status"], "14", "nothing listens there");
    assert_eq!(head.headers["grpc-message"], "Bad Gateway");
    assert_eq!(head.headers["content-type"], "application/grpc");
    let head = call(builder(&pool).build(), "application/json").await;
    assert_eq!(head.status, StatusCode::BAD_GATEWAY, "others get a page");
}

#[tokio::test]
async fn a_deadline_and_a_lack_of_room_have_codes_of_their_own() {
    let origin = Origin::serve(|_| pending()).await;
    let backend = Backend::new("a", &origin.url()).unwrap();
    let pool = Pool::new([backend.max_in_flight(1).unwrap()]).unwrap();
    let proxy = Proxy::new().response_timeout(Duration::from_millis(50));
    let balancer = builder(&pool)
        .proxy(proxy.unwrap())
        .failover(FailoverLayer::new().max_attempts(1).unwrap())
        .balance(BalanceLayer::new(pool.clone()).queue_size(0))
        .unwrap()
        .build();
    let head = call(balancer.clone(), "application/grpc").await;
    assert_eq!(head.headers["grpc-status"], "4");
    let a = pool.snapshot().get("a").unwrap().clone();
    let _one = evenkeel::pool::Lease::acquire(&a).unwrap();
    let head = call(balancer, "application/grpc").await;
    assert_eq!(head.headers["grpc-status"], "8");
    assert_eq!(head.headers["grpc-retry-pushback-ms"], "1000");
}
