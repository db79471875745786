//! `[fleet]`: what this instance shares with the others.

use evenkeel::{
    BoxError, Pool,
    fleet::{FleetHandle, handover::Start},
    metrics::MetricsLayer,
    settings::Settings,
    tls::{Certificates, TicketSecret, TlsLayer},
};

use crate::upgrade;

/// The TLS layer of a listener, and its certificates; `None` for cleartext.
pub(crate) type ListenerTls = Option<(TlsLayer, Certificates)>;

/// Returns the secret of session tickets until the fleet gives another; `None` without `[fleet]`.
pub(crate) fn tickets(settings: &Settings) -> Result<Option<TicketSecret>, BoxError> {
    let secret = settings.fleet.as_ref().filter(|fleet| fleet.has_redis());
    let secret = secret.map(|_| TicketSecret::random());
    Ok(secret.transpose()?)
}

/// Reads the certificates of each listener.
pub(crate) fn tls(
    settings: &Settings,
    tickets: Option<&TicketSecret>,
) -> Result<Vec<ListenerTls>, BoxError> {
    let listeners = 0..settings.listen.len();
    let made = listeners.map(|nth| match tickets {
        Some(tickets) => settings.tls_with_tickets(nth, tickets),
        None => settings.tls(nth),
    });
    Ok(made.collect::<Result<_, _>>()?)
}

/// Joins the fleet, before checks begin and before the listeners open. `None` without `[fleet]`.
pub(crate) async fn join(
    settings: &Settings,
    pool: &Pool,
    tickets: Option<&TicketSecret>,
) -> Result<Option<FleetHandle>, BoxError> {
    let Some(mut fleet) = settings.fleet(pool)? else {
        return Ok(None);
    };
    if let Some(tickets) = tickets {
        fleet = settings.share_tickets(fleet, tickets)?;
    }
    Ok(Some(fleet.start().await))
}

/// Restores the orders that the predecessor knew, unless the fleet gave its own: these may be later.
pub(crate) fn restore_orders(fleet: Option<&FleetHandle>, start: &mut Start, pool: &Pool) {
    if !fleet.is_some_and(FleetHandle::is_store_up) {
        start.restore_orders(upgrade::POOL, pool);
    }
}

/// Adds the gauge of the store to `/metrics`.
pub(crate) fn add_gauge(fleet: Option<&FleetHandle>, metrics: Option<&MetricsLayer>) {
    if let (Some(fleet), Some(stats)) = (fleet, metrics.and_then(MetricsLayer::stats)) {
        fleet.add_gauge(stats);
    }
}
