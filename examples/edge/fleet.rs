//! `[fleet]`: what this instance shares with the others.

use std::sync::Arc;

use evenkeel::{
    BoxError, Pool,
    fleet::{
        FleetHandle,
        handover::{Start, State},
    },
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
) -> Result<Option<Arc<FleetHandle>>, BoxError> {
    let Some(mut fleet) = settings.fleet(pool)? else {
        return Ok(None);
    };
    if let Some(tickets) = tickets {
        fleet = settings.share_tickets(fleet, tickets)?;
    }
    Ok(Some(Arc::new(fleet.start().await)))
}

/// Takes over the orders that the predecessor knew, and the secrets of the fleet. In a fleet, orders come
/// with their times: an order of another instance that is later holds, whenever the store answers.
pub(crate) fn take_over(fleet: Option<&Arc<FleetHandle>>, start: &mut Start, pool: &Pool) {
    match fleet {
        Some(fleet) if import(fleet, start.state()) => {
            let fleet = Arc::clone(fleet);
            start.follow(move |state| {
                import(&fleet, state);
            });
        }
        // The predecessor was in no fleet, or in another one.
        Some(fleet) if fleet.is_store_up() => {}
        _ => start.restore_orders(upgrade::POOL, pool),
    }
}

fn import(fleet: &FleetHandle, state: &State) -> bool {
    let Some(exported) = state.find_secret(upgrade::FLEET) else {
        return false;
    };
    let imported = fleet.import(exported);
    if let Err(error) = &imported {
        tracing::warn!(%error, "what the process before knew of the fleet is not taken over");
    }
    imported.is_ok()
}

/// Adds the gauge of the store to `/metrics`.
pub(crate) fn add_gauge(fleet: Option<&Arc<FleetHandle>>, metrics: Option<&MetricsLayer>) {
    if let (Some(fleet), Some(stats)) = (fleet, metrics.and_then(MetricsLayer::stats)) {
        fleet.add_gauge(stats);
    }
}
