//! A backend as a process of its own: this program, started once more.

use std::{
    convert::Infallible,
    env,
    io::{self, BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use evenkeel::{BoxError, endpoints::HealthService};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tower::ServiceExt;

/// A running backend; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    address: String,
}

impl Process {
    pub(crate) fn start(name: &'static str, address: &str) -> Result<Self, BoxError> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--be-backend", name, address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line.trim().to_owned();
        match address.is_empty() {
            true => Err("a backend did not start".into()),
            false => Ok(Self {
                child,
                name,
                address,
            }),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Waits until it is gone, for one that was killed.
    pub(crate) fn gone(&mut self) -> io::Result<()> {
        self.child.wait().map(drop)
    }

    pub(crate) fn restart(&mut self) -> Result<(), BoxError> {
        *self = Self::start(self.name, &self.address)?;
        Ok(())
    }

    pub(crate) fn signal(&self, name: &str) -> Result<(), BoxError> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status()?;
        match sent.success() {
            true => Ok(()),
            false => Err(format!("kill -s {name} {id}: {sent}").into()),
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> Result<(), BoxError> {
        let gone = async {
            while self.child.try_wait()?.is_none() {
                sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        };
        timeout(2 * LONGEST_DRAIN, gone).await?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.kill());
        drop(self.gone());
    }
}

/// Serves until whoever started it is gone, or a signal comes:
///
/// - SIGTERM: it accepts no more, ends what runs, and ends.
/// - SIGUSR2: its health says so first, for a while; then the same.
/// - SIGUSR1: whatever is asked for, it answers 503 at once. Its health stays good. Once more,
///   and it serves.
#[expect(clippy::print_stdout, reason = "it tells its parent where it is")]
pub(crate) async fn serve(name: &str, address: &str) -> Result<(), BoxError> {
    thread::spawn(|| {
        drop(io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    let health = HealthService::new([])?;
    let broken = Arc::new(AtomicBool::new(false));
    let mut breaks = signal(SignalKind::user_defined1())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut announce = signal(SignalKind::user_defined2())?;
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    let ends = GracefulShutdown::new();
    let mut leaving = false;
    let farewell = sleep(Duration::ZERO);
    tokio::pin!(farewell);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
            () = &mut farewell, if leaving => break,
            _ = announce.recv() => {
                health.drain();
                leaving = true;
                farewell.set(sleep(ANNOUNCED));
                continue;
            }
            _ = breaks.recv() => {
                broken.fetch_xor(true, Relaxed);
                continue;
            }
        };
        stream.set_nodelay(true)?;
        let (name, health, broken) = (name.to_owned(), health.clone(), broken.clone());
        let answer = service_fn(move |request| {
            answer(request, name.clone(), health.clone(), broken.clone())
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        let connection = ends.watch(connection);
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    drop(timeout(LONGEST_DRAIN, ends.shutdown()).await);
    Ok(())
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    name: String,
    health: HealthService,
    broken: Arc<AtomicBool>,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/health" {
        return health.oneshot(request).await.map(|r| r.map(BodyExt::boxed));
    }
    let mut response = Response::new(format!("{name}\n").boxed());
    if let Ok(name) = name.parse() {
        response.headers_mut().insert("x-backend", name);
    }
    if broken.load(Relaxed) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    } else {
        sleep(WORK).await;
    }
    Ok(response)
}

/// What a request takes: more than an error does, which comes at once.
const WORK: Duration = Duration::from_millis(3);
/// How long a backend that leaves says so before: three checks.
const ANNOUNCED: Duration = Duration::from_millis(1_500);
/// For what runs to end.
const LONGEST_DRAIN: Duration = Duration::from_secs(5);
