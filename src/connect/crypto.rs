//! The cryptography provider, and the primitives below it.

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
