//! The causes of an error as one line of text, for a log.
//!
//! Errors of Rust are inconsistent about their sources: some repeat the text of the source in their
//! own, others do not. A cause whose text stands in the one before it is therefore left out, so that a
//! line has `refused` once and not three times.
//!
//! The text is made only for a log that wants it, and only for failures: it allocates.

use std::{
    error::Error as StdError,
    fmt::{self, Write},
    iter,
};

use crate::error::Error;

/// Returns the causes of an error, from the outermost on, in at most [`MAX_CAUSE`] bytes; of an error
/// without a cause, what it says itself. A cause whose text the one before it has already is left out.
#[cold]
pub(crate) fn cause_of(error: &Error) -> Box<str> {
    match error.source() {
        Some(source) => cause_of_foreign(source),
        None => {
            let mut text = Bounded::default();
            let _ = write!(text, "{error}");
            text.text.into()
        }
    }
}

/// Returns what an error and its causes say, in at most [`MAX_CAUSE`] bytes.
#[cold]
pub(crate) fn cause_of_foreign(error: &(dyn StdError + 'static)) -> Box<str> {
    let mut text = Bounded::default();
    let mut last = String::new();
    let sources = iter::successors(Some(error), |error| (**error).source());
    for source in sources.take(MAX_DEPTH) {
        let shown = source.to_string();
        if last.contains(&*shown) {
            continue;
        }
        let separator = if text.text.is_empty() { "" } else { ": " };
        if write!(text, "{separator}{shown}").is_err() {
            break;
        }
        last = shown;
    }
    text.text.into()
}

/// Text that ends after [`MAX_CAUSE`] bytes, with an ellipsis where it was cut.
#[derive(Default)]
struct Bounded {
    text: String,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = MAX_CAUSE - self.text.len();
        if more.len() <= room {
            self.text.push_str(more);
            return Ok(());
        }
        // Room for the ellipsis, at a whole character.
        let mut end = room - CUT.len().min(room);
        while !more.is_char_boundary(end) {
            end -= 1;
        }
        self.text.push_str(&more[..end]);
        while self.text.len() + CUT.len() > MAX_CAUSE {
            self.text.pop();
        }
        self.text.push_str(CUT);
        Err(fmt::Error)
    }
}

/// In bytes: enough for a certificate error with its names, and little beside a line of 600.
const MAX_CAUSE: usize = 256;
/// A chain that is longer, or that leads in a circle, ends here.
const MAX_DEPTH: usize = 8;
const CUT: &str = "…";

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::ErrorKind;

    #[derive(Debug)]
    struct Wrapped(&'static str, io::Error);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Wrapped {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let error = |text| {
            Error::new(ErrorKind::Connect).with_source(Wrapped(text, io::Error::other("reset")))
        };
        assert_eq!(&*cause_of(&error("the name")), "the name: reset");
        assert_eq!(&*cause_of(&error("sending: reset")), "sending: reset");
        let bare = Error::new(ErrorKind::Connect);
        assert_eq!(&*cause_of(&bare), "no connection to the backend");
    }

    #[test]
    fn a_cause_is_bounded_at_a_whole_character() {
        for text in ["x", "é", "€", "𝄞"] {
            for shift in 0..4 {
                let long = format!("{}{}", "-".repeat(shift), text.repeat(300));
                let error = Error::new(ErrorKind::Service).with_source(long.clone());
                let cause = cause_of(&error);
                assert!(
                    cause.len() <= MAX_CAUSE && cause.len() > MAX_CAUSE - 7,
                    "{}",
                    cause.len()
                );
                let begins = cause.strip_suffix(CUT).unwrap();
                assert!(long.starts_with(begins));
            }
        }
    }
}
