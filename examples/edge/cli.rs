//! What the examples that read settings are asked for, and how they answer.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use evenkeel::settings::{Settings, SettingsError};
use tracing_subscriber::EnvFilter;

/// A run that was asked for.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) file: Option<String>,
    pub(crate) only_check: bool,
}

/// Reads the arguments. `--help`, `--version` and mistakes are answered here: the exit code is
/// what is left to do then. `help` begins with the program's name and shows its usage.
pub(crate) fn arguments(help: &str) -> Result<Arguments, ExitCode> {
    let mut arguments = Arguments {
        file: None,
        only_check: false,
    };
    let mut options = true;
    for arg in env::args_os().skip(1) {
        let Some(arg) = arg.to_str() else {
            return Err(refuse(help, &format!("{arg:?} is not UTF-8")));
        };
        match arg {
            "--" if options => options = false,
            "--help" | "-h" if options => return Err(answer(help)),
            "--version" | "-V" if options => {
                let name = help.split([' ', ':']).next().unwrap_or_default();
                return Err(answer(&format!("{name} {}\n", env!("CARGO_PKG_VERSION"))));
            }
            "--check" if options => arguments.only_check = true,
            _ if options && arg.starts_with('-') => {
                return Err(refuse(help, &format!("unknown option {arg}")));
            }
            _ if arguments.file.is_some() => {
                return Err(refuse(help, &format!("a second file: {arg}")));
            }
            _ => arguments.file = Some(arg.to_owned()),
        }
    }
    match arguments.only_check && arguments.file.is_none() {
        true => Err(refuse(help, "--check needs a file")),
        false => Ok(arguments),
    }
}

/// Reads settings, and says each mistake in a line of its own, those of the files that they name
/// too; with `only_check`, that is all. The exit code is what is left to do then.
pub(crate) fn settings(path: &str, only_check: bool) -> Result<Settings, ExitCode> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        complain(&format!("{path}: {error}"));
        ExitCode::from(2)
    })?;
    let mistakes = Settings::mistakes(&text);
    for mistake in &mistakes {
        complain(&format!("{path}: {mistake}"));
    }
    if !mistakes.is_empty() {
        return Err(ExitCode::from(2));
    }
    let settings = Settings::from_toml(&text).map_err(|error| failed(path, &error))?;
    match only_check {
        true => {
            complain(&format!("{path}: fine"));
            Err(ExitCode::SUCCESS)
        }
        false => Ok(settings),
    }
}

/// Says why it ended.
pub(crate) fn failed(path: &str, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    complain(&format!("{path}: {error}"));
    match error.is::<SettingsError>() {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

/// Writes events to the standard error, in colours where that is a terminal and `NO_COLOR` is not
/// set. `RUST_LOG` says which.
pub(crate) fn start_log() {
    let asked = env::var("RUST_LOG").ok().filter(|asked| !asked.is_empty());
    let filter = EnvFilter::try_new(asked.as_deref().unwrap_or(EVENTS));
    let (filter, wrong) = match filter {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(EVENTS), Some(error)),
    };
    let no_colours = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && !no_colours)
        .with_writer(io::stderr)
        .init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG cannot be read: {EVENTS} stands");
    }
}

/// Answers on the standard output, which a pager may have closed.
fn answer(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Refuses the arguments.
pub(crate) fn refuse(help: &str, why: &str) -> ExitCode {
    let usage = help.lines().find(|line| line.starts_with("usage: "));
    complain(&format!("{why}; {}", usage.unwrap_or_default()));
    ExitCode::from(2)
}

#[expect(clippy::print_stderr, reason = "a program talks to people")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}

/// The events that are shown by default: INFO, but for those of the `h2` crate, which warns about
/// each odd frame of a client, so that a client would choose how much is logged. The server has an
/// event of its own, at a bounded rate, where it closes a connection for what the client does.
const EVENTS: &str = "info,h2=error";
