//! One order: from the account to the certificate (RFC 8555 §7.4).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeHandle, ChallengeType,
    Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};

use super::{
    answers::{ChallengeAnswers, http_key, tls_key},
    authority::Authority,
    backoff::Failure,
    builder::Challenge,
    cleanups::Cleanups,
    client::failed,
    dns::{DnsProvider, DnsRecord},
    failure::{MAX_NONCES, OrderError, is_bad_nonce, with_good_nonce},
    key::{KeyType, Request},
    names::Names,
    published::Published,
    stored::StoredCertificate,
};
use crate::store::Store;

/// What all orders share.
pub(super) struct Orders {
    pub(super) store: Arc<dyn Store>,
    pub(super) answers: ChallengeAnswers,
    /// In order of preference.
    pub(super) challenges: Vec<Challenge>,
    pub(super) dns: Option<Arc<dyn DnsProvider>>,
    pub(super) key_type: KeyType,
    pub(super) cleanups: Cleanups,
}

/// What is ordered.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) names: &'a Names,
    /// The certificate that the new one replaces (RFC 9773 §5).
    pub(super) replaces: Option<&'a CertificateIdentifier<'static>>,
    /// How often this has failed in a row: the kinds of challenges take turns.
    pub(super) failures: u32,
}

impl Orders {
    /// Obtains a certificate. What was published for its challenges is removed at the end.
    pub(super) async fn obtain(
        &self,
        authority: &Authority,
        account: &Account,
        wanted: Wanted<'_>,
    ) -> Result<StoredCertificate, OrderError> {
        let mut published = Published::new(&self.store, self.dns.as_ref(), &self.cleanups);
        let obtained = self.run(authority, account, wanted, &mut published).await;
        published.remove().await;
        obtained
    }

    async fn run(
        &self,
        authority: &Authority,
        account: &Account,
        wanted: Wanted<'_>,
        published: &mut Published,
    ) -> Result<StoredCertificate, OrderError> {
        let mut order = self.new_order(authority, account, wanted).await?;
        read_authorizations(&mut order).await?;
        self.present(&mut order, wanted, published).await?;
        let waited = published.wait().await;
        waited.map_err(|(record, error)| validation(&record.name, &error.to_string()))?;
        self.set_ready(&mut order, wanted).await?;
        // A name that was validated a short time ago needs no challenge: the order is ready then.
        if order.state().status != OrderStatus::Ready {
            let ready = with_good_nonce!(order.poll_ready(&POLLS));
            if !matches!(ready, Ok(OrderStatus::Ready)) {
                return Err(invalid(&mut order, ready.err()).await);
            }
        }
        let request = Request::new(wanted.names, self.key_type);
        let request = request.map_err(|e| OrderError::new(Failure::Refused, e.to_string()))?;
        with_good_nonce!(order.finalize_csr(&request.csr)).map_err(failed)?;
        let chain = with_good_nonce!(order.poll_certificate(&POLLS)).map_err(failed)?;
        let directory = authority.directory().to_owned();
        Ok(StoredCertificate::new(directory, chain, request.key))
    }

    async fn new_order(
        &self,
        authority: &Authority,
        account: &Account,
        wanted: Wanted<'_>,
    ) -> Result<Order, OrderError> {
        let names = wanted.names.iter().map(str::to_owned);
        let identifiers: Vec<_> = names.map(Identifier::Dns).collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = authority.profile.as_deref() {
            let known: Vec<_> = account.profiles().map(|profile| profile.name).collect();
            if !known.contains(&profile) {
                let known = known.join(", ");
                let why = format!("profile {profile:?}: the directory has [{known}]");
                return Err(OrderError::new(Failure::Refused, why));
            }
            new = new.profile(profile);
        }
        let Some(replaces) = wanted.replaces else {
            let order = with_good_nonce!(account.new_order(&new));
            return order.map_err(failed);
        };
        let new = new.replaces(replaces.clone());
        let error = match with_good_nonce!(account.new_order(&new)) {
            Ok(order) => return Ok(order),
            Err(error) => failed(error),
        };
        if [Failure::RateLimited, Failure::Validation].contains(&error.failure) {
            return Err(error);
        }
        // The authority may have replaced it already, or forgotten it: the new certificate matters
        // more than what it counts as (RFC 9773 §5).
        tracing::debug!(target: "evenkeel::tls", %error, "order repeated without `replaces`");
        let mut plain = NewOrder::new(&identifiers);
        if let Some(profile) = authority.profile.as_deref() {
            plain = plain.profile(profile);
        }
        let order = with_good_nonce!(account.new_order(&plain));
        order.map_err(failed)
    }

    /// Presents the answers to all open challenges.
    async fn present(
        &self,
        order: &mut Order,
        wanted: Wanted<'_>,
        published: &mut Published,
    ) -> Result<(), OrderError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                other => {
                    return Err(validation(
                        &name,
                        &format!("the authorization is {other:?}"),
                    ));
                }
            }
            let kind = self.choose(&name, &authorization, wanted.failures)?;
            let Some(challenge) = authorization.challenge(kind.clone()) else {
                continue;
            };
            if kind == ChallengeType::Dns01 {
                publish(&name, &challenge, published).await?;
                continue;
            }
            let key = match kind {
                ChallengeType::Http01 => http_key(&challenge.token),
                _ => tls_key(&name),
            };
            let answer = challenge.key_authorization();
            let answer = Bytes::copy_from_slice(answer.as_str().as_bytes());
            let written = published.answer(&self.answers, key, answer).await;
            written.map_err(OrderError::store)?;
        }
        Ok(())
    }

    /// Asks the authority to check the open challenges.
    async fn set_ready(&self, order: &mut Order, wanted: Wanted<'_>) -> Result<(), OrderError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            let kind = self.choose(&name, &authorization, wanted.failures)?;
            if let Some(mut challenge) = authorization.challenge(kind) {
                let asked = with_good_nonce!(challenge.set_ready());
                asked.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Chooses the kind of challenge for a name, among those that the authority offers. They take turns:
    /// where one fails for a name, such as TLS-ALPN-01 behind a proxy that ends TLS, the next may not.
    fn choose(
        &self,
        name: &str,
        offered: &instant_acme::AuthorizationState,
        failures: u32,
    ) -> Result<ChallengeType, OrderError> {
        let is_wildcard = name.starts_with("*.");
        let is_possible = |kind: &ChallengeType| {
            let is_offered = offered.challenges.iter().any(|c| c.r#type == *kind);
            is_offered && (*kind == ChallengeType::Dns01 || !is_wildcard)
        };
        let own = self.challenges.iter().map(|challenge| challenge.kind());
        let mut possible: Vec<_> = own.filter(is_possible).collect();
        let dns = ChallengeType::Dns01;
        if possible.is_empty() && self.dns.is_some() && is_possible(&dns) {
            possible.push(dns);
        }
        let turn = failures as usize % possible.len().max(1);
        possible.into_iter().nth(turn).ok_or_else(|| {
            let why = format!("{name}: the authority offers no challenge that is configured");
            OrderError::new(Failure::Refused, why)
        })
    }
}

/// Publishes the record of DNS-01.
async fn publish(
    name: &str,
    challenge: &ChallengeHandle<'_>,
    published: &mut Published,
) -> Result<(), OrderError> {
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let name = format!("_acme-challenge.{plain}");
    let record = DnsRecord {
        name: name.clone(),
        value: challenge.key_authorization().dns_value(),
    };
    // The authority has checked nothing.
    published.record(record).await.map_err(|error| {
        let why = format!("{name}: record not added: {error}");
        OrderError::new(Failure::Unreachable, why)
    })
}

/// Reads the state of each authorization; the order keeps them.
async fn read_authorizations(order: &mut Order) -> Result<(), OrderError> {
    for nth in 0.. {
        let mut error = None;
        let mut authorizations = order.authorizations();
        while let Some(read) = authorizations.next().await {
            if let Err(failed) = read {
                error = Some(failed);
                break;
            }
        }
        match error {
            None => break,
            Some(error) if nth < MAX_NONCES && is_bad_nonce(&error) => {}
            Some(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Returns why an order is not ready: what the authority says of its challenges.
async fn invalid(order: &mut Order, error: Option<instant_acme::Error>) -> OrderError {
    let error = error.map(failed);
    let error = match error {
        Some(error) if error.failure == Failure::RateLimited => return error,
        other => other,
    };
    let mut found = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        for challenge in &state.challenges {
            if let Some(problem) = &challenge.error {
                found.push(format!("{name}: {problem}"));
            }
        }
    }
    match (found.is_empty(), error) {
        (true, Some(error)) => error,
        (true, None) => OrderError::new(Failure::Validation, "the authority rejected the order"),
        (false, _) => OrderError::new(Failure::Validation, found.join("; ")),
    }
}

fn validation(name: &str, why: &str) -> OrderError {
    OrderError::new(Failure::Validation, format!("{name}: {why}"))
}

/// How the state of an order is asked for: authorities validate within seconds, and sign within
/// a minute.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));
