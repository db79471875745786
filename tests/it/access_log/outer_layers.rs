//! Layers of tower and tower-http around and inside a log, under several servers: the lines that the
//! table of the module's docs promises.

use std::future::pending;

use evenkeel::{access_log::OutermostLayer, respond::RespondLayer};
use http_body_util::combinators::BoxBody;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{
    ServiceBuilder, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer,
    util::BoxCloneSyncService,
};
use tower_http::timeout::TimeoutLayer;

use super::{ends::boxed, *};

const SHORT: Duration = Duration::from_millis(50);

type Answer = Response<BoxBody<Bytes, evenkeel::BoxError>>;
type Boxed<B> = BoxCloneSyncService<Request<B>, Answer, Infallible>;

fn limit() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, SHORT)
}

/// Never answers.
async fn hang<B>(_: Request<B>) -> Result<Response<Empty<Bytes>>, Infallible> {
    pending().await
}

/// Serves with hyper, one connection after the other.
async fn under_hyper(service: Boxed<hyper::body::Incoming>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn ask(address: std::net::SocketAddr) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer[9..12].parse().unwrap()
}

#[tokio::test]
async fn an_outer_time_out_under_hyper_is_known_below_the_outermost_layer() {
    let log = Log::new();
    let with = ServiceBuilder::new()
        .layer(OutermostLayer::new())
        .layer(limit())
        .layer(log.layer())
        .service_fn(hang);
    let address = under_hyper(BoxCloneSyncService::new(
        with.map_response(|r: Response<_>| r.map(boxed)),
    ))
    .await;
    assert_eq!(ask(address).await, 504);
    let line = log.next().await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"timeout".into(), &504.into())
    );
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("a layer outside the log"), "{line}");

    // Without it, the log takes the client to be gone: the table says so.
    let without = ServiceBuilder::new()
        .layer(limit())
        .layer(log.layer())
        .service_fn(hang);
    let address = under_hyper(BoxCloneSyncService::new(
        without.map_response(|r: Response<_>| r.map(boxed)),
    ))
    .await;
    assert_eq!(ask(address).await, 504);
    let line = log.next().await;
    assert_eq!(line["outcome"], "client_abort", "{line}");
    assert!(line.get("status").is_none(), "{line}");
}

#[tokio::test]
async fn a_client_that_goes_away_below_the_outermost_layer_is_one() {
    let log = Log::new();
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let service = ServiceBuilder::new()
        .layer(OutermostLayer::new())
        .layer(log.layer())
        .service_fn(move |_: Request<_>| {
            called.send(()).unwrap();
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        });
    let address = under_hyper(BoxCloneSyncService::new(
        service.map_response(|r: Response<_>| r.map(boxed)),
    ))
    .await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    calls.recv().await.unwrap();
    drop(client);
    let line = log.next().await;
    assert_eq!(line["outcome"], "client_abort", "{line}");
    assert!(
        line["detail"]
            .as_str()
            .unwrap()
            .contains("before the response")
    );
}

#[tokio::test]
async fn an_outer_time_out_under_axum_is_known_below_the_outermost_layer() {
    let log = Log::new();
    let app = axum::Router::new()
        .route("/", axum::routing::get(pending::<&'static str>))
        .layer(log.layer())
        .layer(limit())
        .layer(OutermostLayer::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    assert_eq!(ask(address).await, 504);
    let line = log.next().await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"timeout".into(), &504.into())
    );
    serving.abort();
}

#[tokio::test]
async fn an_inner_time_out_has_the_message_of_its_layer() {
    let log = Log::new();
    let answers = ServiceBuilder::new()
        .layer(log.layer())
        .layer(limit())
        .service_fn(hang);
    let address = under_hyper(BoxCloneSyncService::new(
        answers.map_response(|r: Response<_>| r.map(boxed)),
    ))
    .await;
    assert_eq!(ask(address).await, 504);
    let line = log.next().await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"ok".into(), &504.into())
    );

    let fails = ServiceBuilder::new()
        .layer(log.layer())
        .layer(RespondLayer::new())
        .layer(tower::timeout::TimeoutLayer::new(SHORT))
        .service_fn(hang);
    let address = under_hyper(BoxCloneSyncService::new(
        fails.map_response(|r: Response<_>| r.map(boxed)),
    ))
    .await;
    assert_eq!(ask(address).await, 504);
    let line = log.next().await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"timeout".into(), &504.into())
    );
    assert!(
        line["detail"].as_str().unwrap().contains("timed out"),
        "{line}"
    );
}

#[tokio::test]
async fn a_request_that_is_shed_has_its_line() {
    let log = Log::new();
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let service = ServiceBuilder::new()
        .layer(log.layer())
        .layer(RespondLayer::new())
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .service_fn(move |_: Request<_>| {
            called.send(()).unwrap();
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        });
    let address = under_hyper(BoxCloneSyncService::new(
        service.map_response(|r: Response<_>| r.map(boxed)),
    ))
    .await;
    let first = tokio::spawn(ask(address));
    calls.recv().await.unwrap();
    assert_eq!(ask(address).await, 503);
    let line = log.next().await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"load_shed".into(), &503.into())
    );
    assert!(
        line["detail"].as_str().unwrap().contains("overloaded"),
        "{line}"
    );
    first.abort();
    assert_eq!(log.next().await["outcome"], "client_abort");
}

#[tokio::test]
async fn the_wait_for_a_concurrency_limit_is_in_the_line() {
    let log = Log::new();
    let service = ServiceBuilder::new()
        .layer(log.layer())
        .layer(ConcurrencyLimitLayer::new(1))
        .service_fn(
            |mut request: Request<evenkeel::access_log::RequestBody<_>>| async move {
                let exchange = Exchange::of(request.extensions_mut());
                exchange.begin_attempt(Backend::new("a", "http://127.0.0.1:1").unwrap());
                drop::<Request<evenkeel::access_log::RequestBody<hyper::body::Incoming>>>(request);
                tokio::time::sleep(SHORT).await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            },
        );
    let address = under_hyper(BoxCloneSyncService::new(
        service.map_response(|r: Response<_>| r.map(boxed)),
    ))
    .await;
    let answers = tokio::join!(ask(address), ask(address));
    assert_eq!(answers, (200, 200));
    assert!(log.sink.flush());
    let lines = log.memory.lines();
    let mut waits: Vec<_> = lines
        .iter()
        .map(|line| line["queue_ms"].as_f64().unwrap())
        .collect();
    waits.sort_by(f64::total_cmp);
    assert_eq!(waits.len(), 2, "{lines:?}");
    assert!(waits[0] < 40.0 && waits[1] >= 40.0, "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|l| l["duration_ms"].as_f64() >= l["queue_ms"].as_f64())
    );
}
