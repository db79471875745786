//! The search for all mistakes of a settings file.
//!
//! The search replaces a wrong entry by blanks and reads the text again, until nothing is wrong. So
//! each module still decides itself what it accepts, and a mistake hides no other. A mistake that
//! only follows from the blanks is not reported.
//!
//! ```text
//! text ─▶ TOML?  no ─▶ the parser's errors, one a line
//!           │yes
//!           ▼
//!    ┌─▶ read sections ──error──▶ record it, blank its entry ─┐
//!    │        │ok                                             │
//!    │   build parts ────error──▶ record it, blank its entry ─┤
//!    │        │ok                                             │
//!    │   check the files, end                                 │
//!    └────────────────────────────────────────────────────────┘ 100 times at most
//! ```
//!
//! The alternative, a second set of checks that collects errors, would have to agree with every setter
//! for ever. Blanks keep every line and byte in its place, so that the position of a later mistake is
//! that in the file; what they cannot keep is a required entry, for which a placeholder stands at the
//! end of the text, behind all lines of the file.

use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use toml::de::DeTable;

use self::finder::MistakeFinder;
use super::{Settings, SettingsError, draft::Draft, error::Location, parser_messages};

mod blank;
mod finder;

impl Settings {
    /// Returns every mistake of a text and of the files that it names, in the order of its lines;
    /// nothing if [`from_toml`](Self::from_toml) accepts the text and the files can be used:
    /// certificates and keys can be read and belong together, the access log and the state file
    /// can be written, and so can the folders of automatic certificates and of the hand-over. If the
    /// text is not TOML, only that is reported.
    ///
    /// Blocks on the file system, and leaves no file behind. Reads the text once for each mistake, up
    /// to 100 times.
    #[must_use]
    pub fn mistakes(text: &str) -> Vec<SettingsError> {
        let (_, errors) = DeTable::parse_recoverable(text);
        let mut found: Vec<_> = match errors.is_empty() {
            true => MistakeFinder::new(text).run(),
            false => errors
                .iter()
                .map(|e| parser_messages::syntax(text, e))
                .collect(),
        };
        found.sort_by_key(SettingsError::line);
        // A syntax error often causes others in its line.
        found.dedup_by(|next, first| {
            next == first || !errors.is_empty() && next.line() == first.line()
        });
        found
    }
}

impl Draft {
    /// Returns the mistakes of the files that these settings name.
    fn file_mistakes(&self) -> Vec<SettingsError> {
        let mut found = Vec::new();
        #[cfg(feature = "__tls")]
        for nth in 0..self.sections.listen.len() {
            found.extend(self.certificate_mistakes(nth));
        }
        found.extend(self.log_file_mistakes());
        let state_file = self
            .sections
            .health
            .as_ref()
            .and_then(|h| h.state_file.as_deref());
        if let Some(path) = state_file
            && let Err(error) = can_write(path)
        {
            let location = Location::new("[health]", "state_file");
            found.push(location.wrong(&self.text, format!("{path:?}: {error}")));
        }
        #[cfg(feature = "fleet")]
        found.extend(self.handover_mistake());
        // Last, as the others: their order is that of the lines in the end.
        found.extend(self.admin_token().err());
        #[cfg(feature = "redis")]
        found.extend(self.fleet_store().err());
        found
    }
}

/// Checks whether a file can be appended to or created, without creating it: a process that opened
/// it meanwhile would go on with a file that is deleted.
pub(super) fn can_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => fs::OpenOptions::new().append(true).open(path).map(drop),
        // Opening a pipe would wait for its reader.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_make(path),
        Err(error) => Err(error),
    }
}

/// Checks whether a file can be made beside a path, whatever is there, without leaving one behind.
pub(super) fn can_make(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Another thread may check the same file.
    let number = PROBES.fetch_add(1, Relaxed);
    let probe = format!(".{name}.{}.{number}.check", std::process::id());
    let probe = path.with_file_name(probe);
    fs::File::create_new(&probe)?;
    fs::remove_file(probe)
}

/// The number of files that were made for a check, for their names.
static PROBES: AtomicU64 = AtomicU64::new(0);
