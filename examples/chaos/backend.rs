//! A backend process: this program, started once more.

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

/// A running backend process; killed when dropped.
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

    /// Sends SIGKILL: the process ends at once, in the middle of its responses.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Waits for the end of a process that was killed.
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

    /// Waits until the process has ended by itself.
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
        // The process may have ended already.
        drop(self.kill());
        drop(self.gone());
    }
}

/// Serves until the parent process ends, or a signal arrives:
///
/// - SIGTERM: accepts no more connections, completes the requests in flight, and ends.
/// - SIGUSR2: reports `drain` as its health for three checks, then does the same.
/// - SIGUSR1: responds to every request with 503 at once, while its health stays `pass`. The next
///   SIGUSR1 ends that.
#[expect(clippy::print_stdout, reason = "the parent process reads the address")]
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

/// The time for a request. An error takes none, which attracts a strategy that prefers fast
/// backends.
const WORK: Duration = Duration::from_millis(3);
/// How long a leaving backend reports `drain` before it stops: three checks.
const ANNOUNCED: Duration = Duration::from_millis(1_500);
/// The time for requests in flight to end.
const LONGEST_DRAIN: Duration = Duration::from_secs(5);
