//! Three backends that can be stopped, dead to the last connection, and started again.

use std::{io, net::SocketAddr};

use evenkeel::{Backend, ConfigError};
use http::{Request, Response, header::CONTENT_TYPE};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];

pub(crate) struct Backends {
    running: Vec<(&'static str, SocketAddr, JoinHandle<()>)>,
}

impl Backends {
    pub(crate) async fn start() -> io::Result<Self> {
        let mut running = Vec::new();
        for name in NAMES {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            running.push((name, address, tokio::spawn(serve(listener, name))));
        }
        Ok(Self { running })
    }

    pub(crate) fn list(&self) -> Result<Vec<Backend>, ConfigError> {
        self.running
            .iter()
            .map(|(name, address, _)| Backend::new(*name, &format!("http://{address}")))
            .collect()
    }

    /// Ends a backend with all its connections.
    pub(crate) async fn stop(&mut self, nth: usize) {
        let (_, _, task) = &mut self.running[nth];
        task.abort();
        drop(task.await);
    }

    /// Starts a backend again on its old port.
    pub(crate) async fn restart(&mut self, nth: usize) -> io::Result<()> {
        let (name, address, task) = &mut self.running[nth];
        let listener = TcpListener::bind(*address).await?;
        *task = tokio::spawn(serve(listener, name));
        Ok(())
    }
}

async fn serve(listener: TcpListener, name: &'static str) {
    // When the task is dropped, this closes every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(move |request| async move { answer(name, &request) });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(connection.await) });
    }
}

fn answer(name: &str, request: &Request<Incoming>) -> http::Result<Response<String>> {
    Response::builder()
        .header(CONTENT_TYPE, "text/plain")
        .header("x-backend", name)
        .body(format!("backend {name} answers {}\n", request.uri().path()))
}
