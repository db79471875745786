//! Reads a list of certificates: several at once if there are many, and only what changed.

use std::{collections::HashMap, hash::RandomState, num::NonZeroUsize, sync::Arc, thread};

use super::{Certificate, certificate_entry::Entry};
use crate::error::ConfigError;

/// Reads the list. A certificate of `previous` whose files have the same bytes is not parsed again.
pub(super) fn read(
    certificates: impl IntoIterator<Item = Certificate>,
    previous: &[Arc<Entry>],
    hasher: &RandomState,
) -> Result<Vec<Arc<Entry>>, ConfigError> {
    let certificates: Vec<_> = certificates.into_iter().collect();
    if certificates.is_empty() {
        return Err(ConfigError::new(
            "certificates",
            "the list is empty; 1 or more is accepted",
        ));
    }
    let path = |entry: &Arc<Entry>| entry.files.as_ref()?.path().cloned();
    let previous: HashMap<_, _> = previous
        .iter()
        .filter_map(|entry| Some((path(entry)?, entry)))
        .collect();
    let read_one = |certificate: &Certificate| {
        let known = certificate.path().and_then(|path| previous.get(path));
        let is_same = |known: &&&Arc<Entry>| {
            let files = known.files.as_ref();
            files.is_some_and(|files| files.is_same(certificate))
        };
        match known.filter(is_same) {
            Some(known) => known.read_again(hasher),
            None => Entry::read(None, certificate.clone(), hasher),
        }
    };
    let read_part = |(at, part): (usize, &[Certificate])| {
        let indexed = part.iter().enumerate();
        let read = indexed.map(|(index, certificate)| {
            read_one(certificate).map_err(|error| with_index(at + index, &error))
        });
        read.collect::<Result<Vec<_>, _>>()
    };
    let parts = split(&certificates);
    let Some((first, others)) = parts.split_first() else {
        return Ok(Vec::new());
    };
    let read = thread::scope(|scope| {
        let start = |part| thread::Builder::new().spawn_scoped(scope, move || read_part(part));
        let others = others.iter().map(|&part| (part, start(part)));
        let others: Vec<_> = others.collect();
        let mut read = vec![read_part(*first)];
        for (part, thread) in others {
            // Without the thread, this one reads its part.
            let joined = thread.ok().and_then(|thread| thread.join().ok());
            read.push(joined.unwrap_or_else(|| read_part(part)));
        }
        read
    });
    let read: Result<Vec<_>, _> = read.into_iter().collect();
    Ok(read?.concat())
}

/// Splits the list into a part for each thread, each with the index of its first certificate.
fn split(certificates: &[Certificate]) -> Vec<(usize, &[Certificate])> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let size = certificates.len().div_ceil(threads).max(MIN_PART);
    let parts = certificates.chunks(size).enumerate();
    parts.map(|(n, part)| (n * size, part)).collect()
}

pub(super) fn with_index(index: usize, error: &ConfigError) -> ConfigError {
    let field = format!("certificates[{index}].{}", error.field());
    ConfigError::new(field, error.message())
}

/// Takes a thread some milliseconds, a hundred times what its start takes.
const MIN_PART: usize = 64;
