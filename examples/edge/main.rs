//! The whole library as one binary: listeners, TLS, sticky sessions, health checks, failover,
//! the access log, metrics and the status page, as a settings file says.
//!
//! ```sh
//! cargo run --release --features full --example edge -- edge.toml
//! cargo run --release --features full --example edge -- --check edge.toml
//! cargo run --release --features full --example edge -- --help
//! curl -si http://127.0.0.1:8080/
//! curl -s http://127.0.0.1:9900/metrics      # with `[admin]`; /status is for a browser
//! ```
//!
//! SIGTERM and Ctrl-C drain and exit with 0; a second signal ends the process at once. SIGHUP reads
//! the file again, reopens the files of the log, and logs what changed. If the new settings are wrong, the last
//! good ones stay. Changes that need a restart, such as those of listeners, are logged as a warning
//! at each reload.
//!
//! With `[fleet] handover`, a second process takes the listening sockets of the running one over, which
//! then drains and exits: no connection is refused, and no request fails. SIGUSR2 starts it from the
//! path and with the arguments of the running one; `edge FILE` in a shell does the same. If the new
//! process cannot start, the running one serves on. If the running one is stopped meanwhile, a new process
//! that is ready takes over; one that SIGUSR2 started and that is not ready stops as well. Sockets of systemd (`LISTEN_FDS`) are taken, and
//! systemd is notified (`NOTIFY_SOCKET`): see `examples/deploy/systemd`.

mod acme;
mod app;
mod cli;
mod control;
mod fleet;
mod listen;
mod operators;
mod reload;
mod state_file;
mod upgrade;
mod worker;

use std::{error::Error, process::ExitCode};

use evenkeel::settings::Settings;

const HELP: &str = "\
edge: a load balancer that does what a settings file says

usage: edge [--check] FILE.toml

  --check        says what is wrong with the file and the files that it names, and ends
  -h, --help     shows this
  -V, --version  shows the version

Exits with 0 when a signal ended it or the file is fine, with 2 when the arguments or the file are
wrong, with 1 when it failed. SIGTERM and SIGINT drain, a second one ends it at once; SIGHUP reads
the file again. SIGUSR2 starts a new process of the same program, which takes over at the path of
`[fleet] handover`. RUST_LOG sets which events go to the standard error: \"info,h2=error\" where it is not set.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

fn run() -> Result<(), ExitCode> {
    let arguments = cli::arguments(HELP)?;
    let Some(path) = arguments.file else {
        return Err(cli::refuse(HELP, "no file"));
    };
    let settings = cli::settings(&path, arguments.only_check)?;
    cli::start_log();
    let ran = Loaded::new(settings).and_then(|loaded| control::run(&path, loaded));
    ran.map_err(|error| cli::failed(&path, &*error))
}

/// Settings, and the certificates that they name.
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    pub(crate) tls: Vec<fleet::ListenerTls>,
    /// The secret of session tickets that a fleet shares.
    pub(crate) tickets: Option<evenkeel::tls::TicketSecret>,
}

impl Loaded {
    pub(crate) fn new(settings: Settings) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let tickets = fleet::tickets(&settings)?;
        let tls = fleet::tls(&settings, tickets.as_ref())?;
        Ok(Self {
            settings,
            tls,
            tickets,
        })
    }
}
