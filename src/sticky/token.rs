//! Tokens: the values of the cookie, which name backends without revealing them.
//!
//! ```text
//! token = base64url( first 16 bytes of HMAC-SHA-256(key, "evenkeel sticky 1" 0 cookie-name 0 backend-id) )
//! ```
//!
//! The label and the name keep a token of one purpose from being one of another: two pools with the
//! same keys and ids have different tokens. Zero bytes separate the parts, and neither a name nor an
//! id can have one. 128 bits cannot be guessed; the cut keeps the cookie short.
//!
//! A change of this formula moves every session of every user at the next upgrade: a new one needs a
//! new label, and the old one as a further token that verifies.

use std::{collections::HashMap, fmt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use http::HeaderValue;
use sha2::Sha256;

use crate::{
    error::ConfigError,
    pool::{Backend, hasher::BuildIdHasher},
};

/// Secret keys of 256 bits that make and verify cookies: the first key makes them, all keys verify
/// them.
///
/// Every instance of a balancer needs the same keys, or sessions move between backends when clients
/// move between instances. Make a key with `openssl rand -hex 32` and keep it in a secret store.
///
/// ```
/// use evenkeel::sticky::Keys;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let (new, old) = ("0f".repeat(32), "f0".repeat(32));
/// let keys = Keys::from_hex([&new, &old])?;
/// assert_eq!(format!("{keys:?}"), "Keys(2 secret)"); // keys are never printed
/// # Ok(())
/// # }
/// ```
// The comparison is not constant-time. It compares keys of two settings files, never those of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    keys: Vec<[u8; 32]>,
}

impl Keys {
    /// Makes and verifies cookies with one key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { keys: vec![key] }
    }

    /// Adds a key that verifies cookies and makes none. A cookie of an older key keeps its session,
    /// and the response renews it with the first key.
    #[must_use]
    pub fn with_older_key(mut self, older: [u8; 32]) -> Self {
        self.keys.push(older);
        self
    }

    /// Reads keys of 64 hexadecimal digits each; the first one makes cookies.
    ///
    /// # Errors
    ///
    /// When there is no key, or a key is not 64 hexadecimal digits, or all of them are 0, as in a
    /// placeholder. The error gives the position of the key, never the key.
    pub fn from_hex<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let keys: Vec<_> = keys
            .into_iter()
            .enumerate()
            .map(|(i, key)| match read_hex(key.as_ref()) {
                None => Err((i, "64 hexadecimal digits are accepted")),
                Some(key) if key == [0; 32] => {
                    let accepted =
                        "zeros only; 64 random digits are accepted, as by `openssl rand -hex 32`";
                    Err((i, accepted))
                }
                Some(key) => Ok(key),
            })
            .collect::<Result<_, _>>()
            .map_err(|(i, why)| ConfigError::new("keys", format!("number {}: {why}", i + 1)))?;
        if keys.is_empty() {
            return Err(ConfigError::new("keys", "none: 1 or more is accepted"));
        }
        Ok(Self { keys })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} secret)", self.keys.len())
    }
}

fn read_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits?;
    if digits.len() != 64 {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(key)
}

/// 128 bits of an HMAC in base64.
type Token = [u8; TOKEN_LENGTH];

/// The tokens and cookies of all backends. Built with each snapshot of the pool, so that a request
/// costs a look-up and no cryptography.
///
/// Making it costs one HMAC for each backend and key, on the control path of the pool.
pub(super) struct TokenTable {
    /// By the first half of the token. The second half is compared in constant time, so that the
    /// time of a comparison tells a forger nothing about it.
    tokens: HashMap<[u8; TOKEN_LENGTH / 2], TokenEntry, BuildIdHasher>,
    /// The values of `Set-Cookie`, by the incarnation of the backend.
    cookies: HashMap<u64, HeaderValue, BuildIdHasher>,
}

/// A token, its backend, and whether the first key made it.
struct TokenEntry {
    token: Token,
    backend: Backend,
    is_current: bool,
}

/// A verified token. Only [`TokenTable::verify`] makes one.
pub(super) struct Verified {
    pub(super) backend: Backend,
    /// The first key made the token; the cookie of an older key is renewed.
    pub(super) is_current: bool,
}

impl TokenTable {
    /// Makes the tokens of all backends with all keys, and the cookies with the first key.
    pub(super) fn new(
        backends: &[Backend],
        keys: &Keys,
        cookie_name: &str,
        set_cookie: impl Fn(&str) -> HeaderValue,
    ) -> Self {
        let mut tokens = HashMap::with_capacity_and_hasher(
            backends.len() * keys.keys.len(),
            BuildIdHasher::default(),
        );
        let mut cookies =
            HashMap::with_capacity_and_hasher(backends.len(), BuildIdHasher::default());
        for backend in backends {
            // The first key last: if two keys are equal, its entry replaces the older one's.
            for (i, key) in keys.keys.iter().enumerate().rev() {
                let token = make_token(key, cookie_name, backend.id());
                let entry = TokenEntry {
                    token,
                    backend: backend.clone(),
                    is_current: i == 0,
                };
                if i == 0 {
                    let text: String = token.iter().map(|&b| char::from(b)).collect();
                    cookies.insert(backend.incarnation(), set_cookie(&text));
                }
                tokens.insert(first_half(&token), entry);
            }
        }
        Self { tokens, cookies }
    }

    /// Returns the backend that a cookie value names, or `None` if no key verifies the value.
    pub(super) fn verify(&self, value: &[u8]) -> Option<Verified> {
        // The length first: most values that do not verify have another.
        let token: &Token = value.try_into().ok()?;
        let entry = self.tokens.get(&first_half(token))?;
        let differs = second_half(token) ^ second_half(&entry.token);
        (std::hint::black_box(differs) == 0).then(|| Verified {
            backend: entry.backend.clone(),
            is_current: entry.is_current,
        })
    }

    /// Returns the value of `Set-Cookie` for this backend.
    pub(super) fn cookie(&self, backend: &Backend) -> Option<&HeaderValue> {
        self.cookies.get(&backend.incarnation())
    }
}

fn first_half(token: &Token) -> [u8; TOKEN_LENGTH / 2] {
    let mut half = [0; TOKEN_LENGTH / 2];
    half.copy_from_slice(&token[..TOKEN_LENGTH / 2]);
    half
}

/// Returns the last 16 bytes: the second half, and a part of the first that fills a `u128`.
fn second_half(token: &Token) -> u128 {
    let mut second = [0; 16];
    second.copy_from_slice(&token[TOKEN_LENGTH - 16..]);
    u128::from_ne_bytes(second)
}

/// Makes the token of a backend for the cookie of this name.
fn make_token(key: &[u8; 32], cookie_name: &str, id: &str) -> Token {
    let mut token = [0; TOKEN_LENGTH];
    // HMAC accepts keys of any length, so this never fails.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) {
        mac.update(b"evenkeel sticky 1\0");
        mac.update(cookie_name.as_bytes());
        mac.update(b"\0");
        mac.update(id.as_bytes());
        let tag = mac.finalize().into_bytes();
        // 16 bytes are 22 characters of base64 without padding.
        let _ = URL_SAFE_NO_PAD.encode_slice(&tag[..16], &mut token);
    }
    token
}

/// The length of a token in characters.
const TOKEN_LENGTH: usize = 22;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(ids: &[&str], keys: &Keys, cookie_name: &str) -> TokenTable {
        let backends: Vec<_> = ids
            .iter()
            .map(|id| Backend::new(*id, "http://127.0.0.1:1").unwrap())
            .collect();
        TokenTable::new(&backends, keys, cookie_name, |token| {
            HeaderValue::from_str(token).unwrap()
        })
    }

    fn token(id: &str) -> Token {
        make_token(&[7; 32], "S", id)
    }

    #[test]
    fn all_instances_make_the_same_token() {
        assert_eq!(
            &make_token(&[0; 32], "PROXY_SERVER_ID", "a"),
            b"60qGkmO-4QZotqMJJwGzrg"
        );
    }

    #[test]
    fn keys_are_read_and_never_shown() {
        let keys = Keys::from_hex(["0f".repeat(32), "AB".repeat(32)]).unwrap();
        assert_eq!(keys.keys, [[0x0f; 32], [0xab; 32]]);
        assert_eq!(format!("{keys:?}"), "Keys(2 secret)");
        let zeros = "0".repeat(64);
        for bad in ["", "0f", &"0g".repeat(32), &"0f".repeat(33), &zeros] {
            let error = Keys::from_hex([bad]).unwrap_err();
            assert_eq!(error.field(), "keys");
            assert!(
                bad.is_empty() || !error.to_string().contains(bad),
                "a key must not be shown"
            );
        }
        assert!(Keys::from_hex(Vec::<String>::new()).is_err());
        let older = Keys::from_hex(["0f".repeat(32), zeros]).unwrap_err();
        assert!(
            older.message().starts_with("number 2: zeros only"),
            "{older}"
        );
    }

    #[test]
    fn an_older_key_verifies_and_is_replaced() {
        let rotated = table(&["a"], &Keys::new([9; 32]).with_older_key([7; 32]), "S");
        let old = rotated.verify(&token("a")).unwrap();
        assert!(!old.is_current);
        assert!(
            rotated
                .verify(&make_token(&[9; 32], "S", "a"))
                .unwrap()
                .is_current
        );
    }

    #[test]
    fn another_pools_tokens_and_removed_ids_are_refused() {
        let table = table(&["a", "b"], &Keys::new([7; 32]), "S");
        assert_eq!(table.verify(&token("b")).unwrap().backend.id(), "b");
        assert!(table.verify(&token("gone")).is_none());
        assert!(table.verify(&make_token(&[7; 32], "other", "a")).is_none());
        assert!(table.verify(&make_token(&[8; 32], "S", "a")).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn forged_tokens_are_refused(
            flip in 0_usize..TOKEN_LENGTH * 8, cut in 0_usize..TOKEN_LENGTH, noise: [u8; TOKEN_LENGTH],
        ) {
            let table = table(&["a", "b"], &Keys::new([7; 32]), "S");
            let (a, b) = (token("a"), token("b"));
            let mut flipped = a;
            flipped[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(table.verify(&flipped).is_none());
            prop_assert!(table.verify(&a[..cut]).is_none());
            let spliced = [&a[..cut], &b[cut..]].concat();
            prop_assert!(cut == 0 || table.verify(&spliced).is_none());
            prop_assert!(table.verify(&noise).is_none());
        }
    }
}
