//! The layer around axum's listeners.

use axum::{Router, routing::get};
use tower::Layer;

use super::*;

fn app() -> axum::extract::connect_info::IntoMakeServiceWithConnectInfo<Router, ConnInfo> {
    let app = Router::new().route("/", get(async |conn: ConnInfo| describe(&conn)));
    app.into_make_service_with_connect_info::<ConnInfo>()
}

#[tokio::test]
async fn axum_sees_the_client() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(layer().layer(tcp), app()).into_future());
    // A silent peer delays no other.
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let bytes = [LINE, REQUEST].concat();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert_eq!(body(&answer), "203.0.113.7:50000 192.0.2.1:443 v1");

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    serving.abort();
}

#[tokio::test]
async fn axum_sees_the_client_through_tls() {
    let authority = pki::Authority::new();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = tls(&authority).layer(layer().layer(tcp));
    let serving = tokio::spawn(axum::serve(listener, app()).into_future());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&v2(0x21, 0x11, &IPV4)).await.unwrap();
    let client = authority.client_of(&[&rustls::version::TLS13]);
    let mut stream = pki::handshake(stream, client, "localhost").await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert_eq!(body(&answer), "203.0.113.7:50000 192.0.2.1:443 v2");
    serving.abort();
}
