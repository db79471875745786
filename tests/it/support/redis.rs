//! A real redis-server on a Unix socket, in a folder of its own.
//!
//! It needs Debian's package `redis-server`; where that is missing, tests say so and pass.

use std::{
    io::ErrorKind,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use redis::{Cmd, FromRedisValue, cmd};
use tempfile::TempDir;
use tokio::time::Instant;

/// A server; killed when it is dropped.
pub(crate) struct RedisServer {
    process: Child,
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    password: String,
}

impl RedisServer {
    /// Starts a server; `None` if it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[], "")
    }

    /// Starts a server with further arguments and the password of the user `default`.
    pub(crate) fn start_with(arguments: &[&str], password: &str) -> Option<Self> {
        Self::start_in(&[], arguments, password)
    }

    /// Starts a server with variables of the environment as well.
    pub(crate) fn start_in(
        environment: &[(&str, &str)],
        arguments: &[&str],
        password: &str,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|&a| a.to_owned()).collect();
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let environment: Vec<_> = environment.iter().map(owned).collect();
        let process = match Self::spawn(&folder, &arguments, &environment, password) {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                say_missing();
                return None;
            }
            Err(error) => panic!("redis-server: {error}"),
        };
        let server = Self {
            process,
            folder,
            arguments,
            environment,
            password: password.to_owned(),
        };
        server.wait();
        Some(server)
    }

    fn spawn(
        folder: &TempDir,
        arguments: &[String],
        environment: &[(String, String)],
        password: &str,
    ) -> std::io::Result<Child> {
        let mut command = Command::new("redis-server");
        command.envs(environment.iter().cloned());
        // Nothing is kept: a restart begins empty.
        command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(socket(folder));
        command.arg("--dir").arg(folder.path());
        if !password.is_empty() {
            command.args(["--requirepass", password]);
        }
        command.args(arguments).stdout(Stdio::null()).spawn()
    }

    /// Waits until it listens, which no event announces.
    fn wait(&self) {
        let began = Instant::now();
        while UnixStream::connect(socket(&self.folder)).is_err() {
            assert!(began.elapsed() < PATIENCE, "redis-server must start");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.run::<String>(&cmd("PING")), "PONG");
    }

    pub(crate) fn socket(&self) -> String {
        socket(&self.folder).display().to_string()
    }

    /// Returns its URL, with the password.
    pub(crate) fn url(&self) -> String {
        match &*self.password {
            "" => format!("unix://{}", self.socket()),
            password => format!("unix://{}?pass={password}", self.socket()),
        }
    }

    /// Runs a command beside the code under test.
    pub(crate) fn run<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        command.query(&mut connection).unwrap()
    }

    /// Stops it as a machine that hangs: sockets stay open, and nothing is answered.
    pub(crate) fn hang(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let _ = std::fs::remove_file(socket(&self.folder));
    }

    /// Starts it again, at the same place and empty.
    pub(crate) fn restart(&mut self) {
        let Self {
            folder,
            arguments,
            environment,
            password,
            ..
        } = self;
        let process = Self::spawn(folder, arguments, environment, password);
        self.process = process.unwrap();
        self.wait();
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.process.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "kill {name}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("redis.sock")
}

fn say_missing() {
    super::not_run("redis-server is not installed");
}

const PATIENCE: Duration = Duration::from_secs(60);
