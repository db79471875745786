//! [`State`]: what goes over beside the sockets.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::pool::{HealthSnapshot, OrderSnapshot, Pool};

/// What a process knows beyond its settings, for its successor: the health of backends, the orders of
/// operators, and secrets such as the keys of session tickets.
///
/// It travels over the Unix socket of a [`Handover`](super::Handover) and is never stored.
#[derive(Clone, Default, Serialize, Deserialize)]
#[must_use]
pub struct State {
    pools: BTreeMap<String, PoolState>,
    secrets: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PoolState {
    health: HealthSnapshot,
    orders: OrderSnapshot,
}

impl State {
    /// Makes an empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the health and the orders of a pool, under a name that
    /// [`Start::restore`](super::Start::restore) asks for.
    pub fn pool(mut self, name: impl Into<String>, pool: &Pool) -> Self {
        let state = PoolState {
            health: pool.health_snapshot(),
            orders: pool.order_snapshot(),
        };
        self.pools.insert(name.into(), state);
        self
    }

    /// Adds a secret, such as an export of ticket keys, under a name of its own.
    pub fn secret(mut self, name: impl Into<String>, secret: impl Into<Vec<u8>>) -> Self {
        self.secrets.insert(name.into(), secret.into());
        self
    }

    /// Returns the secret of this name.
    #[must_use]
    pub fn find_secret(&self, name: &str) -> Option<&[u8]> {
        self.secrets.get(name).map(Vec::as_slice)
    }

    /// Gives a pool the health of that name. Returns the number of backends whose health was restored.
    pub(super) fn restore_health(&self, name: &str, pool: &Pool) -> usize {
        let state = self.pools.get(name);
        state.map_or(0, |state| pool.restore_health(&state.health))
    }

    /// Gives a pool the orders of that name, which are `age` old.
    pub(super) fn restore_orders(&self, name: &str, pool: &Pool, age: Duration) {
        if let Some(state) = self.pools.get(name) {
            pool.restore_orders(&state.orders.clone().later(age));
        }
    }

    /// Gives a pool what changed since this part of its state was restored.
    pub(super) fn update(&self, part: Part, name: &str, pool: &Pool) {
        match (part, self.pools.get(name)) {
            (_, None) => {}
            (Part::Health, Some(state)) => {
                pool.restore_health(&state.health);
                pool.restore_failures(&state.health);
            }
            (Part::Orders, Some(state)) => {
                pool.restore_orders(&state.orders);
            }
        }
    }
}

/// What a pool got of a state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Health,
    Orders,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("pools", &self.pools)
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .finish()
    }
}
