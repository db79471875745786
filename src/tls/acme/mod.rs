//! Automatic certificates: ordered from an authority that speaks ACME (RFC 8555), kept in a store, renewed
//! in time (feature `acme`, or `acme-ring` with that provider).
//!
//! # Example
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use evenkeel::{
//!     store::FileStore,
//!     tls::{
//!         Certificates, TlsConfig, TlsLayer,
//!         acme::{Acme, Authority},
//!     },
//! };
//!
//! # async fn run() -> Result<(), evenkeel::BoxError> {
//! let certificates = Certificates::empty();
//! let store = FileStore::new("/var/lib/evenkeel")?;
//! let acme = Acme::new(Arc::new(store))
//!     .certificate(["www.example.com", "example.com"])?
//!     .email("admin@example.com")?
//!     .terms_of_service_agreed(true)
//!     .authorities([Authority::lets_encrypt_staging()])
//!     .start(&certificates)
//!     .await?;
//! let tls = TlsLayer::new(TlsConfig::new(certificates));
//! # let _ = tls;
//! // The certificates are renewed until `acme` is dropped.
//! # drop(acme);
//! # Ok(())
//! # }
//! ```
//!
//! The example `acme` serves a site this way.
//!
//! # Where it goes
//!
//! Beside the request path: a task for each certificate, which changes [`Certificates`](super::Certificates).
//! The authority connects to this server to check the names:
//!
//! | check | the authority needs | answered by |
//! |---|---|---|
//! | [`Challenge::TlsAlpn01`] | port 443 | the [`Certificates`](super::Certificates) themselves |
//! | [`Challenge::Http01`] | port 80 | [`Http01Layer`] around the service there |
//! | [`Challenge::Dns01`] | nothing here; the only one for wildcards | a [`DnsProvider`] of the program |
//!
//! Several instances share one [`Store`](crate::store::Store). The one that gets the lock of a certificate
//! orders it; each of them answers the checks, and the others take the new certificate from the store at
//! the next [`poll_interval`](Acme::poll_interval). A store in a folder
//! ([`FileStore`](crate::store::FileStore)) serves processes of one machine.
//!
//! | key in the store | what |
//! |---|---|
//! | `acme/accounts/HOST-DIGEST` | the account's URL and private key |
//! | `acme/certificates/NAME-DIGEST` | chain and private key |
//! | `acme/suggestions/NAME-DIGEST` | the time of renewal that the authority suggests |
//! | `acme/failures/NAME-DIGEST` | failures in a row, and when the next order may be |
//! | `acme/challenges/…` | open challenges, for an hour |
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | authorities | Let's Encrypt: `https://acme-v02.api.letsencrypt.org/directory` |
//! | roots of the directory | Mozilla's |
//! | terms of service | not agreed to: nothing starts |
//! | challenges | TLS-ALPN-01 |
//! | key | ECDSA with P-256, a new one for each certificate |
//! | renewal | when the authority suggests (RFC 9773); else after 2/3 of the lifetime and up to 1/30 more; after 9/10 at the latest |
//! | the suggestion is read again | when the authority says, within 60 s and 24 h; else after 6 h |
//! | poll interval of the store | 60 s |
//! | wait for the store at the start | 2 s |
//! | orders at once | 4 |
//! | lease of the lock of an order | 60 s, renewed while it runs |
//! | wait after a failure of the authority or of the network | 10 s, doubled up to 30 min |
//! | wait after a failed validation | 2 min, 10 min, 30 min, … 6 h: fewer than 5 an hour |
//! | wait where a limit is used up | what `Retry-After` says, up to 7 d; else 1 h, … 24 h |
//! | wait where the authority refuses | 1 h, … 24 h |
//! | time-out of a request to the authority | 30 s |
//! | lookups of answers in the store at once | 16, of 5 s at most |
//!
//! # When it fails
//!
//! Nothing here stops a listener: until a certificate is there, one that no client accepts is served, and
//! a certificate stays in force until there is a better one, even if it expires. What happens is logged
//! under `evenkeel::tls`:
//!
//! | event | level |
//! |---|---|
//! | `certificate obtained`, `certificate renewed` | INFO |
//! | `certificate not obtained`, with the names, the directory, the cause and the wait | WARN; ERROR where a placeholder is served, or less than a tenth of the lifetime is left |
//! | `the store of certificates failed`, and that it answers again | ERROR, INFO |
//!
//! [`AcmeHandle::statuses`] says the same to a program.
//!
//! With several authorities, the next one gets the order at once. All waits are in the store, so that no
//! restart and no other instance orders sooner; after a restart, the first order waits for 15 min at most,
//! unless a limit of the authority is used up. To order at once, remove `acme/failures/…`.
//!
//! Without the store, nothing is ordered. A store that was emptied gets the certificates back from those
//! that serve them, and new accounts.
//!
//! **Deployment caveat.** Try new names with [`Authority::lets_encrypt_staging`]: the limits of the other
//! directory are narrow. When the directory is changed afterwards, the certificate is ordered there at
//! once.
//!
//! # Cost
//!
//! A request pays nothing, but for a comparison of its path under [`Http01Layer`]. Each certificate has a
//! task that reads the store once a poll interval. An order is about fifteen requests to the authority,
//! each over a connection of its own.

mod account;
mod answers;
mod authority;
mod backoff;
mod builder;
mod client;
mod current;
mod dns;
mod failure;
mod following;
mod handle;
pub mod http01;
mod key;
mod manager;
mod names;
mod order;
mod renewal;
mod stored;
mod suggestion;

pub use answers::ChallengeAnswers;
pub use authority::Authority;
pub use builder::{Acme, Challenge};
pub use dns::{DnsFuture, DnsProvider, DnsRecord};
pub use handle::{AcmeHandle, CertificateStatus};
pub use http01::{Http01, Http01Layer};
pub use key::KeyType;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let seconds = |time: Duration| format!("{} s", time.as_secs());
        let minutes = |seconds: u64| format!("{} min", seconds / 60);
        let hours = |seconds: u64| format!("{} h", seconds / 3_600);
        let text = str::to_owned;
        let share = |share: f64, of: f64| format!("{:.0}/{of}", share * of);
        let one_over = |share: f64| format!("1/{:.0}", 1.0 / share);
        let [first, second, third, .., last] = backoff::VALIDATION;
        let [down, .., longest] = backoff::UNREACHABLE;
        let [refused, .., most] = backoff::REFUSED;
        let retry = "wait where the authority refuses";
        let limit = "wait where a limit is used up";
        let failed = "wait after a failed validation";
        let unreachable = "wait after a failure of the authority";
        let again = "the suggestion is read again";
        let compared = [
            ("authorities", text(authority::LETS_ENCRYPT)),
            ("roots of the directory", text("Mozilla's")),
            ("terms of service", text("not agreed to")),
            ("challenges", text("TLS-ALPN-01")),
            ("key", text("ECDSA with P-256")),
            ("renewal", share(renewal::BEGIN, 3.0)),
            ("renewal", one_over(renewal::JITTER)),
            ("renewal", share(renewal::LATEST, 10.0)),
            (again, seconds(renewal::MIN_SUGGESTION)),
            (again, hours(renewal::MAX_SUGGESTION.as_secs())),
            (again, hours(renewal::DEFAULT_SUGGESTION.as_secs())),
            (
                "poll interval of the store",
                seconds(builder::POLL_INTERVAL),
            ),
            (
                "wait for the store at the start",
                seconds(manager::START_TIMEOUT),
            ),
            ("orders at once", manager::MAX_ORDERS.to_string()),
            ("lease of the lock", seconds(manager::LEASE)),
            (unreachable, format!("{down} s")),
            (unreachable, minutes(longest)),
            (failed, minutes(first)),
            (failed, minutes(second)),
            (failed, minutes(third)),
            (failed, hours(last)),
            (
                limit,
                format!("{} d", backoff::MAX_RETRY_AFTER.as_secs() / 86_400),
            ),
            (limit, hours(refused)),
            (limit, hours(most)),
            (retry, hours(refused)),
            (retry, hours(most)),
            ("time-out of a request", seconds(client::TIMEOUT)),
            ("lookups of answers", answers::MAX_LOOKUPS.to_string()),
            ("lookups of answers", seconds(answers::LOOKUP_TIMEOUT)),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
