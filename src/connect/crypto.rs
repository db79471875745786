//! The cryptography provider, and the primitives below it.
//!
//! Everything that needs cryptography takes it from here, so that one provider does all of it. With
//! both features on, aws-lc-rs is used: it has the post-quantum key exchange X25519MLKEM768. No
//! process-wide default is installed, as a library must not decide that for its program.

use std::sync::Arc;

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::digest;
#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs::{aead, hkdf, rand};
#[cfg(not(feature = "aws-lc-rs"))]
use ring::digest;
#[cfg(not(feature = "aws-lc-rs"))]
pub(crate) use ring::{aead, hkdf, rand};
use rustls::crypto::CryptoProvider;

/// Returns the cryptography provider: aws-lc-rs if its feature is on, else ring.
///
/// Makes a new value with each call: call it when a configuration is built, not for a connection.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.as_ref());
    sha256
}
