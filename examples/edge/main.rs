//! The whole library as one binary: listeners, TLS, sticky sessions, health checks, failover and
//! the access log, as a settings file says.
//!
//! ```sh
//! cargo run --release --features full --example edge -- edge.toml
//! cargo run --release --features full --example edge -- --check edge.toml
//! curl -si http://127.0.0.1:8080/
//! ```
//!
//! SIGTERM and Ctrl-C drain and exit with 0; a second one ends it at once. SIGHUP reads the file
//! again, keeps the last good settings when the new ones are wrong, and opens the log anew; what
//! it cannot change while running (listeners, say) it warns about.

mod app;
mod control;
mod known;
mod reload;
mod work;

use std::{env, error::Error, process::ExitCode};

use evenkeel::settings::{Settings, SettingsError};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut args: Vec<String> = env::args().skip(1).collect();
    let only_check = args.first().is_some_and(|arg| arg == "--check");
    if only_check {
        args.remove(0);
    }
    let [path] = args.as_slice() else {
        complain("usage: edge [--check] FILE.toml");
        return ExitCode::from(2);
    };
    let loaded = match Loaded::read(path) {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&format!("{path}: {error}"));
            return ExitCode::from(2);
        }
    };
    if only_check {
        complain(&format!("{path}: fine"));
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match control::run(path, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{path}: {error}"));
            match error.is::<SettingsError>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// Events at INFO, but for those of the `h2` crate, which warns about each odd frame of a client: a
/// client would choose how much is logged. The server has an event of its own, at a bounded rate,
/// where it closes a connection for what the client does.
const FILTER: &str = "info,h2=error";

/// Settings, and the certificates that they name.
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    pub(crate) tls: Vec<Option<(evenkeel::tls::TlsLayer, evenkeel::tls::Certificates)>>,
}

impl Loaded {
    /// Reads and checks everything.
    pub(crate) fn read(path: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let settings = Settings::from_toml(&std::fs::read_to_string(path)?)?;
        let tls = (0..settings.listen.len())
            .map(|nth| settings.tls(nth))
            .collect::<Result<_, _>>()?;
        Ok(Self { settings, tls })
    }
}

#[expect(clippy::print_stderr, reason = "a program talks to people")]
fn complain(text: &str) {
    eprintln!("{text}");
}
