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
//! | `acme/certificates/HOST-DIGEST/NAME-DIGEST` | chain and private key |
//! | `acme/suggestions/HOST-DIGEST/NAME-DIGEST` | the time of renewal that the authority suggests |
//! | `acme/failures/HOST-DIGEST/NAME-DIGEST` | failures in a row, and when the next order may be |
//! | `acme/issuers/NAME-DIGEST` | the directory that issued last |
//! | `acme/challenges/…` | open challenges, for an hour |
//!
//! `HOST-DIGEST` stands for the directory: configurations with different directories, or different lists
//! of them, may share a store and the names of certificates. A list takes the latest certificate of its
//! directories. Where there is none, that of another directory is served until there is one.
//!
//! The locks of an order are under its certificate and, for TLS-ALPN-01, under `acme/names/…`: such a check
//! shows one answer for a name, so that certificates which share a name are ordered one after the other.
//!
//! # From process to process
//!
//! A process that takes over from a running one ([`fleet::handover`](crate::fleet::handover)) gets its
//! certificates with [`LoadedAcme::exporter`] and [`Acme::predecessor`], and needs no store for them:
//! an upgrade never puts a placeholder in the place of a certificate. [`Acme::load`] comes before the
//! listeners open, and [`LoadedAcme::start`] when this process serves. [`Acme::copies`] does the same for
//! a restart: a process that starts while a shared store is down serves the copies of its own folder.
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
//! | the suggestion is read again | when the authority says, within 60 s and 24 h; else after 6 h; and up to 1/10 later |
//! | suggestions read at once | 4 |
//! | poll interval of the store | 60 s |
//! | wait for the store at the start | 2 s |
//! | placeholder | expires after 24 h |
//! | orders at once | 4 |
//! | lease of the lock of an order | 60 s, renewed while it runs |
//! | wait after a failure of the authority or of the network | 10 s, doubled up to 30 min |
//! | wait after a failed validation | 2 min, 10 min, 30 min, … 6 h: fewer than 5 an hour |
//! | wait where a limit is used up | what `Retry-After` says, up to 7 d; else 1 h, … 24 h |
//! | wait where the authority refuses | 1 h, … 24 h |
//! | time-out of a request to the authority | 30 s |
//! | time-out of the removal of a record of DNS-01 | 60 s |
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
//! | `a placeholder is served` | INFO; ERROR where the store failed, so that there may be a certificate |
//! | `the store of certificates failed`, and that it answers again | ERROR, INFO |
//! | `a value of the store is left out`: it is damaged, and is written again after the next order | ERROR |
//! | `the lock of an order is lost`: another instance may order, and this one has given up | WARN |
//!
//! [`AcmeHandle::statuses`] says the same to a program. A placeholder is also seen by what watches
//! certificates: it expires within a day, its issuer is [`CertificateInfo::PLACEHOLDER`], and an
//! [`ExpiryWatcher`](super::ExpiryWatcher) logs it at ERROR from its fifth minute.
//!
//! With several authorities, the next one gets the order at once. All waits are in the store, so that no
//! restart and no other instance orders sooner; after a restart, the first order waits for 15 min at most,
//! unless a limit of the authority is used up. To order at once, remove `acme/failures/…`: a running
//! process sees that at its next poll.
//!
//! Without the store, nothing is ordered. A store that was emptied gets the certificates back from those
//! that serve them, and new accounts. After a process that was killed within an order, the next order
//! begins when the leases of its locks end.
//!
//! [`CertificateInfo::PLACEHOLDER`]: crate::context::CertificateInfo::PLACEHOLDER
//!
//! **Deployment caveat.** Try new names with [`Authority::lets_encrypt_staging`]: the limits of the other
//! directory are narrow. When the directory is changed afterwards, the certificate is ordered there at
//! once.
//!
//! # Cost
//!
//! A request pays nothing, but for a comparison of its path under [`Http01Layer`]. Each certificate has a
//! task that reads the store once a poll interval, one value for each directory. An order is about
//! fifteen requests to the authority, each over a connection of its own.

mod account;
mod answers;
mod attempt;
mod authority;
mod backoff;
mod builder;
mod cleanups;
mod client;
mod current;
mod dns;
mod failure;
mod following;
mod handle;
pub mod http01;
mod key;
mod lease;
mod manager;
mod names;
mod order;
mod published;
mod renewal;
mod stored;
mod suggestion;
mod takeover;

pub use answers::ChallengeAnswers;
pub use authority::Authority;
pub use builder::{Acme, Challenge};
pub use dns::{DnsFuture, DnsProvider, DnsRecord};
pub use handle::{AcmeHandle, CertificateStatus, LoadedAcme};
pub use http01::{Http01, Http01Layer};
pub use key::KeyType;
pub use takeover::Exporter;

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
            (again, one_over(renewal::SUGGESTION_JITTER)),
            (
                "suggestions read at once",
                manager::MAX_SUGGESTIONS.to_string(),
            ),
            ("placeholder", hours(key::PLACEHOLDER_LIFETIME.as_secs())),
            ("orders at once", manager::MAX_ORDERS.to_string()),
            ("lease of the lock", seconds(lease::LEASE)),
            (
                "time-out of the removal",
                seconds(published::REMOVAL_TIMEOUT),
            ),
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
