//! Reads a list of certificates: several at once if there are many, and only what changed.

use std::{
    collections::HashMap, fmt::Display, hash::RandomState, num::NonZeroUsize, sync::Arc, thread,
};

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
            read_one(certificate).map_err(|error| below(at + index, &error))
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

/// Names the certificate that the error is about.
pub(super) fn below(certificate: impl Display, error: &ConfigError) -> ConfigError {
    let field = format!("certificates[{certificate}].{}", error.field());
    ConfigError::new(field, error.message())
}

/// Takes a thread some milliseconds, a hundred times what its start takes.
const MIN_PART: usize = 64;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tls::Certificates;

    /// A folder with a file for each certificate, which holds chain and key.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new(count: usize) -> Self {
            let made = Self(tempfile::tempdir().unwrap());
            let text = text();
            (0..count).for_each(|n| made.put(n, &text));
            made
        }

        fn path(&self, n: usize) -> PathBuf {
            self.0.path().join(format!("{n}.pem"))
        }

        fn put(&self, n: usize, text: &str) {
            std::fs::write(self.path(n), text).unwrap();
        }

        fn list(&self, count: usize) -> Vec<Certificate> {
            let file = |n| Certificate::files(self.path(n), self.path(n));
            (0..count).map(file).collect()
        }
    }

    fn text() -> String {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        made.cert.pem() + &made.signing_key.serialize_pem()
    }

    #[test]
    fn the_first_fault_of_a_list_that_several_threads_read_has_its_index() {
        let files = Files::new(2 * MIN_PART + 2);
        let list = files.list(2 * MIN_PART + 2);
        assert_eq!(
            Certificates::new(list.clone()).unwrap().in_force().len(),
            130
        );
        files.put(120, "nonsense");
        files.put(100, "nonsense");
        let error = Certificates::new(list.clone()).unwrap_err();
        assert_eq!(error.field(), "certificates[100].chain", "{error}");
        assert!(error.message().contains("100.pem"), "{error}");
        files.put(3, "nonsense");
        let error = Certificates::new(list).unwrap_err();
        assert_eq!(error.field(), "certificates[3].chain", "{error}");
    }

    #[test]
    fn a_new_list_parses_only_what_has_changed() {
        let files = Files::new(4);
        let certificates = Certificates::new(files.list(3)).unwrap();
        let before = certificates.in_force();
        files.put(1, &text());
        certificates.replace(files.list(4)).unwrap();
        let after = certificates.in_force();
        assert_eq!(after.len(), 4);
        let is_kept = |n: usize| Arc::ptr_eq(&before[n], &after[n]);
        assert_eq!([0, 1, 2].map(is_kept), [true, false, true]);
        assert_ne!(before[1].fingerprint, after[1].fingerprint);
        // The same file under other requirements is read as another certificate.
        let mut list = files.list(4);
        list[0] = list[0].clone().required_names(["b.test"]);
        let error = certificates.replace(list).unwrap_err();
        assert!(
            error.message().contains("one for b.test is required"),
            "{error}"
        );
    }
}
