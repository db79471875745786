//! An example as a process of its own.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

/// Ends the wait for what should be there at once, on a machine that has a lot to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running example; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    seen: Vec<String>,
}

impl Process {
    pub(crate) fn start(example: &str, args: &[&str]) -> Self {
        Self::spawn(Command::new(binary(example)).args(args))
    }

    /// Starts a program that is not an example of this package.
    pub(crate) fn start_program(path: &Path, args: &[&str]) -> Self {
        Self::spawn(Command::new(path).args(args))
    }

    /// Starts it with a variable of the environment.
    pub(crate) fn start_with(example: &str, args: &[&str], (name, value): (&str, &str)) -> Self {
        Self::spawn(Command::new(binary(example)).args(args).env(name, value))
    }

    /// Starts one of several that are to die at the same moment: in the group of the first of
    /// them, or as the first.
    pub(crate) fn start_beside(first: Option<&Self>, example: &str, args: &[&str]) -> Self {
        let group = first.map_or(0, |first| first.id().try_into().unwrap());
        Self::spawn(
            Command::new(binary(example))
                .args(args)
                .process_group(group),
        )
    }

    /// Starts it with this limit of open files, which the limit of this process allows.
    pub(super) fn start_with_open_files(example: &str, args: &[&str], files: usize) -> Self {
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        Self::spawn(
            command
                .args(["-c", &script])
                .arg(binary(example))
                .args(args),
        )
    }

    /// Starts the program of another command, which runs the example.
    pub(super) fn launch(launcher: &mut Command, example: &str, args: &[&str]) -> Self {
        Self::spawn(launcher.arg(binary(example)).args(args))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(pump(child.stdout.take().unwrap(), sender.clone()));
        tokio::spawn(pump(child.stderr.take().unwrap(), sender));
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line of either output that contains this.
    pub(crate) async fn line(&mut self, part: &str) -> String {
        self.line_within(PATIENCE, part).await
    }

    /// Waits for it for so long.
    pub(crate) async fn line_within(&mut self, limit: Duration, part: &str) -> String {
        let found = async {
            while let Some(line) = self.lines.recv().await {
                self.seen.push(line.clone());
                if line.contains(part) {
                    return Some(line);
                }
            }
            None
        };
        let found = timeout(limit, found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no line with {part:?} in {:#?}", self.seen))
    }

    /// Waits until each of these parts is in a line of its own, in any order; returns those lines
    /// in the order of the parts.
    pub(crate) async fn all<const N: usize>(&mut self, parts: [&str; N]) -> [String; N] {
        let mut found = [const { None }; N];
        while found.iter().any(Option::is_none) {
            let line = self.line("").await;
            let free = |at: &usize| found[*at].is_none() && line.contains(parts[*at]);
            if let Some(at) = (0..N).find(free) {
                found[at] = Some(line);
            }
        }
        found.map(Option::unwrap)
    }

    /// Waits for a line with this URL scheme; returns the address in it.
    pub(crate) async fn address(&mut self, scheme: &str) -> SocketAddr {
        address_in(&self.line(scheme).await, scheme)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, name: &str) {
        kill(name, &self.id().to_string());
    }

    /// Signals all that were started beside this one, the first: in one system call, so that
    /// none of them lives on while another is dead.
    pub(crate) fn signal_all(&self, name: &str) {
        kill(name, &format!("-{}", self.id()));
    }

    /// Returns how much memory it ever had, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_memory(&self) -> usize {
        let id = self.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        1_024 * kib.parse::<usize>().unwrap()
    }

    /// Returns what it used of the processors.
    pub(crate) fn cpu_time(&self) -> Duration {
        let id = self.id();
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // Linux tells them in hundredths.
        Duration::from_millis(10 * ticks)
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end; returns how it ended and all lines.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, &[String]) {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("it must end").unwrap();
        while let Some(line) = self.lines.recv().await {
            self.seen.push(line);
        }
        (status, &self.seen)
    }

    /// Waits for its end alone: a process that it started may still write to its outputs.
    pub(super) async fn exits(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait()).await;
        status.expect("it must end").unwrap()
    }

    pub(crate) async fn must_succeed(&mut self) {
        let (status, lines) = self.ended().await;
        assert!(status.success(), "{status}: {lines:#?}");
    }
}

/// A `backend` example.
pub(crate) struct Backend {
    pub(crate) process: Process,
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
}

impl Backend {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(name: &'static str, address: SocketAddr) -> Self {
        let process = Process::start("backend", &[name, &address.to_string()]);
        Self::named(name, process).await
    }

    /// As [`Process::start_beside`].
    pub(crate) async fn start_beside(first: Option<&Self>, name: &'static str) -> Self {
        let first = first.map(|first| &first.process);
        let process = Process::start_beside(first, "backend", &[name, "127.0.0.1:0"]);
        Self::named(name, process).await
    }

    async fn named(name: &'static str, mut process: Process) -> Self {
        let address = process.address("http://").await;
        Self {
            process,
            name,
            address,
        }
    }

    /// Returns its table for a settings file.
    pub(crate) fn settings(&self) -> String {
        format!(
            "[[pool.backends]]\nid = {:?}\nurl = \"http://{}\"\n",
            self.name, self.address
        )
    }
}

pub(super) fn kill(name: &str, process: &str) {
    let status = std::process::Command::new("kill")
        .args([name, "--", process])
        .status()
        .unwrap();
    assert!(status.success(), "kill {name} {process}");
}

async fn pump(output: impl AsyncRead + Unpin, lines: mpsc::UnboundedSender<String>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// Finds a built example. `cargo test --test it` builds none, so they are built here; where
/// they are there and fresh, that is a look.
pub(crate) fn binary(example: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let own = env::current_exe().unwrap();
        let profile = own.ancestors().nth(2).unwrap();
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--features", "full", "--target-dir"])
            .arg(profile.parent().unwrap());
        for example in [
            "axum",
            "backend",
            "client",
            "edge",
            "fleet",
            "hyper",
            "otlp_metrics",
            "quickstart",
            "trace",
        ] {
            cargo.args(["--example", example]);
        }
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the examples must build");
        profile.join("examples")
    });
    folder.join(example)
}

/// Returns the address behind this URL scheme.
pub(crate) fn address_in(line: &str, scheme: &str) -> SocketAddr {
    let (_, rest) = line.split_once(scheme).unwrap();
    let end = rest.find(['/', ' ']).unwrap_or(rest.len());
    rest[..end].parse().unwrap()
}
