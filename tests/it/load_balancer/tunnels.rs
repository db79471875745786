//! Tunnels whose ends close one after the other, through the whole stack.

use std::{future::IntoFuture, net::SocketAddr, time::Duration};

use evenkeel::{Backend, LoadBalancer, Pool, health::HealthLayer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\n";

/// Opens a tunnel; returns both its ends, and the pool.
async fn open() -> (TcpStream, TcpStream, Pool) {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", backend.local_addr().unwrap());
    let pool = Pool::new([Backend::new("a", &url).unwrap()]).unwrap();
    let health = HealthLayer::new(pool.clone()).no_checks();
    let balancer = LoadBalancer::builder(pool.clone())
        .health(health)
        .unwrap()
        .build();
    let address = serve(balancer).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\n")
        .await
        .unwrap();
    let accept = async {
        let (mut stream, _) = backend.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
        }
        stream.write_all(SWITCH).await.unwrap();
        stream
    };
    let backend = timeout(PATIENCE, accept).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    (client, backend, pool)
}

async fn serve(balancer: LoadBalancer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(evenkeel::serve(listener, balancer).into_future());
    address
}

fn in_flight(pool: &Pool) -> u32 {
    pool.snapshot().backends()[0].in_flight()
}

async fn returned(pool: &Pool) {
    let wait = async {
        while in_flight(pool) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the lease comes back");
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    timeout(PATIENCE, read).await.expect("it must end").unwrap();
    rest
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_the_answer() {
    let (mut client, mut backend, pool) = open().await;
    client.write_all(b"that is all").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut backend).await, b"that is all");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(in_flight(&pool), 1, "the other half is open");
        backend.write_all(b"and ").await.unwrap();
        let mut heard = [0; 4];
        let read = client.read_exact(&mut heard);
        timeout(PATIENCE, read).await.unwrap().unwrap();
        assert_eq!(&heard, b"and ");
    }
    backend.write_all(b"so on").await.unwrap();
    drop(backend);
    assert_eq!(rest(&mut client).await, b"so on");
    returned(&pool).await;
}

#[tokio::test]
async fn a_backend_that_has_said_all_still_hears_the_client() {
    let (mut client, mut backend, pool) = open().await;
    backend.write_all(b"that is all").await.unwrap();
    backend.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"that is all");
    assert_eq!(in_flight(&pool), 1, "the other half is open");
    client.write_all(b"so on").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut backend).await, b"so on");
    returned(&pool).await;
}

#[tokio::test]
async fn an_end_that_breaks_takes_the_other_along() {
    for client_breaks in [true, false] {
        let (mut client, mut backend, pool) = open().await;
        let (breaks, stays) = match client_breaks {
            true => (client, &mut backend),
            false => (backend, &mut client),
        };
        breaks.set_zero_linger().unwrap();
        drop(breaks);
        let mut rest = Vec::new();
        let read = stays.read_to_end(&mut rest);
        let _ = timeout(PATIENCE, read).await.expect("it must end");
        assert!(rest.is_empty());
        returned(&pool).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
