//! What a request finds in the places that an earlier one left.

use std::{convert::Infallible, future::IntoFuture};

use bytes::Bytes;
use evenkeel::{LoadBalancer, server};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

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

#[tokio::test]
async fn copies_that_a_handler_makes_are_requests_of_their_own() {
    let origin = Origin::named("a").await;
    let pool = pool(&[origin.url()]);
    let balancer = LoadBalancer::builder(pool.clone())
        .health(quiet(&pool))
        .build();
    let app = tower::service_fn(move |request| {
        let said = twice(balancer.clone(), request);
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said.await))) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(evenkeel::serve(listener, app).into_future());
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // The first leaves places, on the one thread there is.
    for nth in 0..4 {
        let response = client.send_request(get()).await.unwrap();
        assert_eq!(super::text(response).await, "200 200 ", "request {nth}");
    }
}
