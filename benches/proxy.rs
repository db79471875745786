//! The bare proxy, end to end, with a backend on a Unix socket that answers without thinking.
//!
//! ```sh
//! cargo bench --features full --bench proxy
//! ```
//!
//! Most of it is the kernel's: two writes, two reads and two wake-ups of another thread.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    thread,
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::{Backend, context::Selected, proxy::Proxy};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use tower::Service;

fn answer(size: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + size, b'x');
    bytes
}

/// Answers whatever comes, a request a read.
fn serve(listener: &UnixListener, answer: &[u8]) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut buf = [0; 4_096];
        while let Ok(1..) = stream.read(&mut buf) {
            if stream.write_all(answer).is_err() {
                break;
            }
        }
    }
}

fn proxy(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (Ok(runtime), Ok(folder)) = (runtime, tempfile::tempdir()) else {
        return;
    };
    for size in [1_024, 65_536] {
        let path = folder.path().join(size.to_string());
        let Ok(listener) = UnixListener::bind(&path) else {
            return;
        };
        thread::spawn(move || serve(&listener, &answer(size)));
        let Ok(backend) = Backend::new("a", "http://backend") else {
            return;
        };
        let backend = backend.unix_socket(path);
        let mut proxy = Proxy::new();
        c.bench_function(&format!("proxy/{size}"), |b| {
            b.iter(|| {
                let mut request = Request::new(Empty::<Bytes>::new());
                let host = HeaderValue::from_static("shop.example");
                request.headers_mut().insert("host", host);
                request.extensions_mut().insert(Selected(backend.clone()));
                runtime.block_on(async {
                    match proxy.call(request).await {
                        Ok(response) => response.into_body().collect().await.is_ok(),
                        Err(_) => false,
                    }
                })
            });
        });
    }
}

criterion_group!(benches, proxy);
criterion_main!(benches);
