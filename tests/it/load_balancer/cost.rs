//! What the canonical stack allocates, over a socket.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use evenkeel::context::Selected;
use tokio::runtime::Builder;

use super::*;

/// A backend on threads of its own, whose allocations are not counted.
fn apart() -> SocketAddr {
    fn answer(mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        loop {
            let mut bytes = [0; 1_024];
            let read = stream.read(&mut bytes)?;
            if read == 0 {
                return Ok(());
            }
            head.extend_from_slice(&bytes[..read]);
            if head.ends_with(b"\r\n\r\n") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
                head.clear();
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(|| answer(stream));
        }
    });
    address
}

/// The fewest allocations of a request, from the call to the end of its body.
fn fewest<S, B>(mut service: S, request: impl Fn() -> Request<Empty<Bytes>>) -> u64
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: std::fmt::Debug>,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |service: &mut S, request| {
        runtime.block_on(async {
            let response = service.call(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let mut body = std::pin::pin!(response.into_body());
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
        });
    };
    for _ in 0..50 {
        ask(&mut service, request());
    }
    let counts = (0..50).map(|_| {
        let request = request();
        allocation_counter::measure(|| ask(&mut service, request)).count_total
    });
    counts.min().unwrap()
}

#[test]
fn it_allocates_the_record_and_nothing_else() {
    let pool = pool(&[format!("http://{}", apart())]);
    let backend = pool.snapshot().backends()[0].clone();
    let bare = fewest(Proxy::new(), || {
        let mut request = get();
        request.extensions_mut().insert(Selected(backend.clone()));
        request
    });
    let plain = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool.clone()).no_checks())
        .unwrap()
        .build();
    let sink = Lines::writer(std::io::sink()).unwrap();
    let full = LoadBalancer::builder(pool.clone())
        .health(HealthLayer::new(pool.clone()).no_checks())
        .unwrap()
        .failover(FailoverLayer::new().hedge(evenkeel::failover::Hedge::new()))
        .sticky(sticky(&pool))
        .unwrap()
        .access_log(AccessLogLayer::new(sink))
        .build();
    let cookie = {
        let mut balancer = full.clone();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let response = runtime.block_on(async { balancer.call(get()).await.unwrap() });
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        http::HeaderValue::from_str(cookie.split(';').next().unwrap()).unwrap()
    };
    // With a note in the request's extensions, as a server leaves one there: the table is no
    // part of it.
    let noted = || {
        let mut request = get();
        request.extensions_mut().insert(());
        request
    };
    assert_eq!(fewest(plain, noted), bare + 2, "the record, and its place");
    let with_session = || {
        let mut request = noted();
        request.headers_mut().insert("cookie", cookie.clone());
        request
    };
    assert_eq!(fewest(full, with_session), bare + 2);
}
