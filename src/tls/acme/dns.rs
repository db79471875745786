//! [`DnsProvider`]: records of DNS-01 (RFC 8555 §8.4).

use std::{future::Future, pin::Pin};

use crate::error::BoxError;

/// A TXT record by which an authority checks a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsRecord {
    /// The name of the record, such as `_acme-challenge.a.example`, without a dot at its end.
    pub name: String,
    /// The value, of letters, digits, `-` and `_`.
    pub value: String,
}

/// The zone in which records of DNS-01 are published: an implementation calls the API of a DNS service.
///
/// An order for `a.example` and `*.a.example` needs two records of one name at once: [`present`] adds one
/// and leaves the others, and [`clean_up`] removes the one with this value.
///
/// ```
/// use evenkeel::tls::acme::{DnsFuture, DnsProvider, DnsRecord};
/// use tokio::process::Command;
///
/// /// Runs `nsupdate`, as for a zone of one's own.
/// #[derive(Debug)]
/// struct Hook;
///
/// async fn run(verb: &str, record: &DnsRecord) -> Result<(), evenkeel::BoxError> {
///     let status = Command::new("./dns-hook").args([verb, &record.name, &record.value]).status();
///     if status.await?.success() { Ok(()) } else { Err("dns-hook failed".into()) }
/// }
///
/// impl DnsProvider for Hook {
///     fn present<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
///         Box::pin(run("add", record))
///     }
///     fn wait<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
///         Box::pin(run("wait", record))
///     }
///     fn clean_up<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a> {
///         Box::pin(run("delete", record))
///     }
/// }
/// ```
///
/// [`present`]: Self::present
/// [`clean_up`]: Self::clean_up
pub trait DnsProvider: Send + Sync + 'static {
    /// Adds the record to the zone.
    fn present<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a>;

    /// Waits until all servers of the zone have the record: the authority asks any of them, and a wrong
    /// answer counts as a failed validation. It is called after all records of an order were added.
    fn wait<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a>;

    /// Removes the record. It is called once for each record that was to be added, also after a failure, a
    /// time-out, and when the [`AcmeHandle`](super::AcmeHandle) is dropped within an order; not if the
    /// process ends then. It has 60 s.
    fn clean_up<'a>(&'a self, record: &'a DnsRecord) -> DnsFuture<'a>;
}

/// The future of a [`DnsProvider`]'s method.
pub type DnsFuture<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;
