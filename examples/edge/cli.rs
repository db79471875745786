//! Arguments, exit codes and logging of the examples that read settings.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use evenkeel::settings::{Settings, SettingsError};
use tracing_subscriber::EnvFilter;

/// The arguments of a run.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) file: Option<String>,
    pub(crate) only_check: bool,
}

/// Reads the arguments. Answers `--help`, `--version` and mistakes itself, and returns the exit code
/// then. `help` begins with the program's name and shows its usage.
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

/// Reads settings, and prints each mistake in a line of its own, including those of the files that
/// the settings name. Returns the exit code if there is a mistake, or with `only_check`.
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

/// Prints the error that ended the program; returns the exit code.
pub(crate) fn failed(path: &str, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    complain(&format!("{path}: {error}"));
    match error.is::<SettingsError>() {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

/// Writes events to the standard error, in colours if that is a terminal and `NO_COLOR` is not set.
/// `RUST_LOG` selects the events.
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

/// Prints to the standard output, which a pager may have closed.
fn answer(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints what is wrong with the arguments, and the usage.
pub(crate) fn refuse(help: &str, why: &str) -> ExitCode {
    let usage = help.lines().find(|line| line.starts_with("usage: "));
    complain(&format!("{why}; {}", usage.unwrap_or_default()));
    ExitCode::from(2)
}

#[expect(clippy::print_stderr, reason = "the program prints its mistakes")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}

/// The events that are shown by default: INFO, and ERROR of the `h2` crate. That crate warns about
/// each odd frame of a client, so a client could fill the log. The server itself reports a
/// connection that it closes for such frames, at a bounded rate.
const EVENTS: &str = "info,h2=error";
