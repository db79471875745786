//! A backend as a process of its own: this program, started once more.

use std::{
    convert::Infallible,
    env,
    io::{self, BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    thread,
};

use evenkeel::BoxError;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A running backend; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    address: String,
}

impl Process {
    pub(crate) fn start(address: &str) -> Result<Self, BoxError> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--be-backend", address])
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
            false => Ok(Self { child, address }),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    pub(crate) fn restart(&mut self) -> Result<(), BoxError> {
        *self = Self::start(&self.address)?;
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
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.kill());
    }
}

/// Serves until whoever started it is gone.
#[expect(clippy::print_stdout, reason = "it tells its parent where it is")]
pub(crate) async fn serve(address: &str) -> Result<(), BoxError> {
    thread::spawn(|| {
        drop(io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello\n".into()))
}
