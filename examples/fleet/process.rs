//! Processes at the hosts, and the lines that they write.

use std::{
    env,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use evenkeel::BoxError;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::timeout,
};

/// A running process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Option<mpsc::UnboundedReceiver<String>>,
    name: String,
}

impl Process {
    pub(crate) fn start(name: &str, mut command: Command) -> Result<Self, BoxError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let (sender, lines) = mpsc::unbounded_channel();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            tokio::spawn(pump(out, sender.clone()));
            tokio::spawn(pump(err, sender));
        }
        Ok(Self {
            stdin: child.stdin.take(),
            child,
            lines: Some(lines),
            name: name.to_owned(),
        })
    }

    /// Waits for a line that contains `part`, and returns it.
    pub(crate) async fn line(&mut self, part: &str) -> Result<String, BoxError> {
        let mut seen = Vec::new();
        let find = async {
            while let Some(line) = self.next_line().await {
                if line.contains(part) {
                    return Some(line);
                }
                seen.push(line);
            }
            None
        };
        let found = timeout(LONGEST_START, find).await.ok().flatten();
        found.ok_or_else(|| format!("{}: no line with {part:?} in {seen:#?}", self.name).into())
    }

    /// Returns the next line, or `None` at the end of the process.
    pub(crate) async fn next_line(&mut self) -> Option<String> {
        match &mut self.lines {
            Some(lines) => lines.recv().await,
            None => None,
        }
    }

    /// Takes the lines that come from now on.
    pub(crate) fn take_lines(&mut self) -> Option<mpsc::UnboundedReceiver<String>> {
        self.lines.take()
    }

    /// Writes a line to its standard input.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<(), BoxError> {
        if let Some(stdin) = &mut self.stdin {
            stdin.write_all(format!("{line}\n").as_bytes()).await?;
        }
        Ok(())
    }

    pub(crate) async fn signal(&self, name: &str) -> Result<(), BoxError> {
        let Some(id) = self.child.id() else {
            return Err(format!("{} has ended", self.name).into());
        };
        let mut command = Command::new("kill");
        let sent = command.args(["-s", name, &id.to_string()]).status().await?;
        match sent.success() {
            true => Ok(()),
            false => Err(format!("kill -s {name} {id}: {sent}").into()),
        }
    }

    /// Sends SIGKILL, and waits until the process is gone and its sockets are closed.
    pub(crate) async fn kill(&mut self) -> Result<(), BoxError> {
        Ok(self.child.kill().await?)
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus, BoxError> {
        let ended = timeout(LONGEST_END, self.child.wait()).await;
        Ok(ended.map_err(|elapsed| format!("{} did not end: {elapsed}", self.name))??)
    }

    /// Asks it to end, and kills it where it does not.
    pub(crate) async fn end(&mut self) -> Result<(), BoxError> {
        if self.child.try_wait()?.is_none() {
            self.signal("TERM").await?;
            if self.ended().await.is_err() {
                self.kill().await?;
            }
        }
        Ok(())
    }
}

async fn pump(output: impl AsyncRead + Unpin, lines: mpsc::UnboundedSender<String>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// Checks that a program is there.
pub(crate) async fn try_tool(name: &str) -> std::io::Result<()> {
    Command::new(name).arg("--version").output().await.map(drop)
}

/// The other examples that the experiments run, beside this one.
pub(crate) struct Programs {
    pub(crate) edge: PathBuf,
    pub(crate) backend: PathBuf,
}

impl Programs {
    /// Finds them. Under `cargo run` or `cargo test` they are built, if they are not there and fresh.
    pub(crate) async fn find() -> Result<Self, BoxError> {
        let own = env::current_exe()?;
        let folder = own.parent().unwrap_or_else(|| Path::new("."));
        if let Some(cargo) = env::var_os("CARGO") {
            build(Command::new(cargo), folder).await?;
        }
        let find = |name: &str| {
            let path = folder.join(name);
            match path.exists() {
                true => Ok(path),
                false => Err(format!(
                    "{} is missing: cargo build --features full --example {name}",
                    path.display()
                )),
            }
        };
        Ok(Self {
            edge: find("edge")?,
            backend: find("backend")?,
        })
    }
}

async fn build(mut cargo: Command, folder: &Path) -> Result<(), BoxError> {
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--features", "full"])
        .args(["--example", "edge", "--example", "backend"]);
    let profile = folder.parent();
    if let Some(target) = profile.and_then(Path::parent) {
        cargo.arg("--target-dir").arg(target);
    }
    if profile.is_some_and(|profile| profile.ends_with("release")) {
        cargo.arg("--release");
    }
    match cargo.status().await?.success() {
        true => Ok(()),
        false => Err("the examples edge and backend must build".into()),
    }
}

/// How long a process may take until it writes what is waited for; a machine may be busy.
const LONGEST_START: Duration = Duration::from_secs(60);
/// How long a process may take to end; an edge drains for 30 s at most.
const LONGEST_END: Duration = Duration::from_secs(45);
