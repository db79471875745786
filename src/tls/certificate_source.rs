//! [`CertificateSource`]: certificates that are asked for during a handshake.

use std::{fmt, future::Future, pin::Pin};

use super::Certificate;
use crate::error::BoxError;

/// A source of certificates that is asked during a handshake, by server name: a store, a file system, a
/// certificate authority.
///
/// ```
/// use evenkeel::tls::{Certificate, CertificateFuture, CertificateSource};
///
/// /// Reads `NAME.pem` from a folder.
/// struct Folder(std::path::PathBuf);
///
/// impl CertificateSource for Folder {
///     fn certificate(&self, server_name: &str) -> CertificateFuture {
///         // rustls accepts DNS names only: no slash is in them.
///         let path = self.0.join(format!("{server_name}.pem"));
///         CertificateFuture::new(async move {
///             match tokio::fs::read(path).await {
///                 Ok(pem) => Ok(Some(Certificate::pem(pem.clone(), pem))),
///                 Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
///                 Err(error) => Err(error.into()),
///             }
///         })
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let found = Folder("/nowhere".into()).certificate("a.test").await;
/// assert!(found.is_ok_and(|found| found.is_none()));
/// # }
/// ```
pub trait CertificateSource: Send + Sync + 'static {
    /// Finds the certificate for a server name, which is in lower case; `None` if there is none.
    fn certificate(&self, server_name: &str) -> CertificateFuture;
}

/// The future of [`CertificateSource::certificate`].
pub struct CertificateFuture {
    inner: Pin<Box<dyn Future<Output = Result<Option<Certificate>, BoxError>> + Send>>,
}

impl CertificateFuture {
    /// Boxes a future: one box for each certificate that is asked for.
    pub fn new(
        future: impl Future<Output = Result<Option<Certificate>, BoxError>> + Send + 'static,
    ) -> Self {
        Self {
            inner: Box::pin(future),
        }
    }
}

impl Future for CertificateFuture {
    type Output = Result<Option<Certificate>, BoxError>;

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for CertificateFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateFuture").finish_non_exhaustive()
    }
}
