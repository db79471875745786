//! The extensions that a request has when it arrives: those of its server, and none of an earlier
//! request.

use std::{convert::Infallible, future::IntoFuture, sync::mpsc};

use bytes::Bytes;
use evenkeel::{
    BoxError, LoadBalancer, balance::BalanceLayer, proxy::Proxy, respond::RespondLayer, server,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service, ServiceExt};

use super::{get, pool, quiet};
use crate::support::Origin;

/// Asks for a request twice, as a mirror does, and says how both went.
async fn twice(balancer: LoadBalancer, request: Request<server::Body>) -> String {
    let (parts, _) = request.into_parts();
    let mut said = String::new();
    for parts in [parts.clone(), parts] {
        let request = Request::from_parts(parts, Empty::<Bytes>::new());
        let response = balancer.clone().oneshot(request).await.unwrap();
        said += response.status().as_str();
        said += " ";
        let _ = response.into_body().collect().await.unwrap();
    }
    said
}

/// A connection to this service, on the one thread there is.
async fn client<S, B>(app: S) -> SendRequest<Empty<Bytes>>
where
    S: Service<Request<server::Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn copies_that_a_handler_makes_are_requests_of_their_own() {
    let origin = Origin::named("a").await;
    let pool = pool(&[origin.url()]);
    let balancer = LoadBalancer::builder(pool.clone())
        .health(quiet(&pool))
        .unwrap()
        .build();
    let mut client = client(tower::service_fn(move |request| {
        let said = twice(balancer.clone(), request);
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said.await))) }
    }))
    .await;
    for nth in 0..4 {
        let response = client.send_request(get()).await.unwrap();
        assert_eq!(super::text(response).await, "200 200 ", "request {nth}");
    }
}

/// Returns how many extensions the second and the third request of a connection arrive with.
async fn counts<S, B>(app: S) -> [usize; 2]
where
    S: Service<Request<server::Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (sender, receiver) = mpsc::channel();
    let counted = tower::util::MapRequest::new(app, move |request: Request<server::Body>| {
        sender.send(request.extensions().len()).unwrap();
        request
    });
    let mut client = client(counted).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = client.send_request(get()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        seen.push(receiver.recv().unwrap());
    }
    [seen[1], seen[2]]
}

#[tokio::test]
async fn a_request_inherits_no_extension_of_an_earlier_one() {
    let origin = Origin::named("a").await;
    let pool = pool(&[origin.url()]);
    let balancer = LoadBalancer::builder(pool.clone())
        .health(quiet(&pool))
        .unwrap()
        .build();
    // `ConnInfo` and `Interim`.
    assert_eq!(counts(balancer).await, [2, 2]);
    let by_hand = RespondLayer::new().layer(BalanceLayer::new(pool).layer(Proxy::new()));
    assert_eq!(counts(by_hand).await, [2, 2]);
}
