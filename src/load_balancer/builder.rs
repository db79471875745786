//! The builder of a [`LoadBalancer`].

#[cfg(feature = "metrics")]
use tokio::time::Instant;
use tower_layer::Layer;

use super::LoadBalancer;
#[cfg(feature = "sticky")]
use super::optional::Optional;
#[cfg(feature = "access-log")]
use crate::access_log::{AccessLogLayer, Entry, Sink};
#[cfg(feature = "metrics")]
use crate::metrics::MetricsLayer;
#[cfg(feature = "metrics")]
use crate::stats::Stats;
#[cfg(feature = "sticky")]
use crate::sticky::StickyLayer;
use crate::{
    balance::{BalanceLayer, StackBalance},
    error::ConfigError,
    failover::FailoverLayer,
    forwarded::ForwardedLayer,
    health::HealthLayer,
    pool::Pool,
    proxy::Proxy,
    respond::RespondLayer,
    trace::TraceLayer,
};

/// Puts the canonical stack together; made by [`LoadBalancer::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    forwarded: Option<ForwardedLayer>,
    trace: TraceLayer,
    pool: Pool,
    #[cfg(feature = "access-log")]
    access_log: Option<AccessLogLayer>,
    #[cfg(feature = "metrics")]
    metrics: MetricsLayer,
    respond: RespondLayer,
    #[cfg(feature = "sticky")]
    sticky: Option<StickyLayer>,
    failover: FailoverLayer,
    balance: BalanceLayer,
    health: HealthLayer,
    proxy: Proxy,
}

impl Builder {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            forwarded: None,
            trace: TraceLayer::disabled(),
            #[cfg(feature = "access-log")]
            access_log: None,
            #[cfg(feature = "metrics")]
            metrics: MetricsLayer::disabled(),
            respond: RespondLayer::new(),
            #[cfg(feature = "sticky")]
            sticky: None,
            failover: FailoverLayer::new(),
            balance: BalanceLayer::new(pool.clone()),
            health: HealthLayer::new(pool.clone()),
            proxy: Proxy::new(),
            pool,
        }
    }

    /// Sets how the address of the client is found behind other balancers.
    ///
    /// Default: in `X-Forwarded-For`, behind the peers that the [proxy](Self::proxy) trusts
    /// ([`Proxy::trusted_peers`]).
    pub fn forwarded(mut self, layer: ForwardedLayer) -> Self {
        self.forwarded = Some(layer);
        self
    }

    /// Continues or begins the trace of each request, and makes spans of requests and attempts.
    ///
    /// Default: none. Trace context passes as the client sent it.
    pub fn trace(mut self, layer: TraceLayer) -> Self {
        self.trace = layer;
        self
    }

    /// Logs each request.
    ///
    /// Default: none.
    #[cfg(feature = "access-log")]
    pub fn access_log(mut self, layer: AccessLogLayer) -> Self {
        self.access_log = Some(layer);
        self
    }

    /// Records each request, and adds gauges to the layer's [`Stats`](crate::stats::Stats):
    /// `evenkeel_retry_budget_left` and `evenkeel_requests_waiting`. Of several balancers on the same
    /// `Stats`, such as one for each worker, each gauge is the sum.
    ///
    /// Default: none.
    ///
    /// # Errors
    ///
    /// Returns an error that names `metrics` if the layer was made for another pool: its backends would
    /// have no requests.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, layer: MetricsLayer) -> Result<Self, ConfigError> {
        if let Some(stats) = layer.stats() {
            self.refuse_other_pool("metrics", stats.pool())?;
        }
        self.metrics = layer;
        Ok(self)
    }

    /// Sets the responses for failures.
    ///
    /// Default: [`RespondLayer::new`].
    pub fn respond(mut self, layer: RespondLayer) -> Self {
        self.respond = layer;
        self
    }

    /// Keeps sessions on their backends.
    ///
    /// Default: none.
    ///
    /// # Errors
    ///
    /// Returns an error that names `sticky` if the layer was made for another pool: sessions would be
    /// bound to backends that get no requests.
    #[cfg(feature = "sticky")]
    pub fn sticky(mut self, layer: StickyLayer) -> Result<Self, ConfigError> {
        self.refuse_other_pool("sticky", layer.pool())?;
        self.sticky = Some(layer);
        Ok(self)
    }

    /// Sets when and how often a request is tried on another backend.
    ///
    /// Default: [`FailoverLayer::new`].
    pub fn failover(mut self, layer: FailoverLayer) -> Self {
        self.failover = layer;
        self
    }

    /// Sets the strategy and the queue.
    ///
    /// Default: [`BalanceLayer::new`].
    ///
    /// # Errors
    ///
    /// Returns an error that names `balance` if the layer was made for another pool: requests would go
    /// to backends without checks.
    pub fn balance(mut self, layer: BalanceLayer) -> Result<Self, ConfigError> {
        self.refuse_other_pool("balance", layer.pool())?;
        self.balance = layer;
        Ok(self)
    }

    /// Sets how backends are checked and judged. Use `HealthLayer::no_checks` for backends without a
    /// health page: they count as up until live traffic fails.
    ///
    /// Default: [`HealthLayer::new`].
    ///
    /// # Errors
    ///
    /// Returns an error that names `health` if the layer was made for another pool: its checks would
    /// not concern the backends that get the requests.
    pub fn health(mut self, layer: HealthLayer) -> Result<Self, ConfigError> {
        self.refuse_other_pool("health", layer.pool())?;
        self.health = layer;
        Ok(self)
    }

    /// Sets how requests are forwarded.
    ///
    /// Default: [`Proxy::new`].
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }

    /// Sets the layers that have a pool. The caller made them for the pool of this builder.
    #[cfg(feature = "serde")]
    pub(crate) fn layers_of_its_pool(
        mut self,
        balance: BalanceLayer,
        health: HealthLayer,
        sticky: Option<StickyLayer>,
    ) -> Self {
        (self.balance, self.health, self.sticky) = (balance, health, sticky);
        self
    }

    fn refuse_other_pool(&self, field: &str, pool: &Pool) -> Result<(), ConfigError> {
        match pool.is_same(&self.pool) {
            true => Ok(()),
            false => Err(ConfigError::new(
                field,
                "made for another pool: a layer for the pool given to `LoadBalancer::builder` \
                 is accepted",
            )),
        }
    }

    /// Builds the service. Checks begin now if this is called in a tokio runtime, otherwise with the
    /// first request.
    #[must_use]
    pub fn build(self) -> LoadBalancer {
        let forwarded = self
            .forwarded
            .unwrap_or_else(|| ForwardedLayer::new(self.proxy.trusts().clone()));
        #[cfg(feature = "metrics")]
        if let Some(stats) = self.metrics.stats() {
            add_gauges(stats, &self.failover, &self.balance);
        }
        let core = self.health.layer(self.proxy);
        let core = StackBalance::new(self.balance.layer(core));
        let core = self.failover.layer(core);
        #[cfg(feature = "sticky")]
        let core = match self.sticky {
            Some(sticky) => Optional::With(sticky.layer(core)),
            None => Optional::Without(core),
        };
        let stack = self.respond.layer(core);
        #[cfg(feature = "access-log")]
        let stack = self
            .access_log
            .unwrap_or_else(|| AccessLogLayer::new(NoSink))
            .layer(stack);
        #[cfg(feature = "metrics")]
        let stack = self.metrics.layer(stack);
        LoadBalancer {
            stack: forwarded.layer(self.trace.layer(stack)),
        }
    }
}

/// Adds what only these layers know.
#[cfg(feature = "metrics")]
fn add_gauges(stats: &Stats, failover: &FailoverLayer, balance: &BalanceLayer) {
    stats.add_to_gauge(
        "evenkeel_retry_budget_left",
        "Retries that the budgets would pay for now.",
        failover.configured_budget().account(),
        |account| account.left(Instant::now()),
    );
    stats.add_to_gauge(
        "evenkeel_requests_waiting",
        "Requests that wait in the queue for a backend.",
        balance.state(),
        |state| state.waiting() as f64,
    );
}

/// The sink of a stack without a log.
#[cfg(feature = "access-log")]
struct NoSink;

#[cfg(feature = "access-log")]
impl Sink for NoSink {
    fn enabled(&self) -> bool {
        false
    }

    fn record(&self, _entry: &Entry<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::default_table;

    /// What a setting looks like, for those that can only be compared as a whole.
    fn debug(setting: &impl std::fmt::Debug) -> String {
        format!("{setting:?}")
    }

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let pool = Pool::new([]).unwrap();
        let builder = Builder::new(pool.clone());
        assert!(builder.forwarded.is_none(), "the proxy's peers are trusted");
        assert!(builder.proxy.trusts().is_empty());
        assert_eq!(debug(&builder.trace), debug(&TraceLayer::disabled()));
        #[cfg(feature = "access-log")]
        assert!(builder.access_log.is_none());
        #[cfg(feature = "sticky")]
        assert!(builder.sticky.is_none());
        assert_eq!(debug(&builder.respond), debug(&RespondLayer::new()));
        assert_eq!(debug(&builder.failover), debug(&FailoverLayer::new()));
        let balance = BalanceLayer::new(pool.clone());
        assert_eq!(debug(&builder.balance), debug(&balance));
        assert_eq!(debug(&builder.health), debug(&HealthLayer::new(pool)));
        assert_eq!(debug(&builder.proxy), debug(&Proxy::new()));
        let compared = [
            ("forwarded", "none"),
            ("trace", "none"),
            ("access log", "none"),
            ("metrics", "none"),
            ("respond", "plain text"),
            ("sticky", "none"),
            ("failover", "one more attempt"),
            ("balance", "round robin"),
            ("health", "GET `/health` every 5 s"),
            ("proxy", "as [`Proxy::new`]"),
        ];
        let compared = compared.map(|(layer, default)| (layer, default.to_owned()));
        default_table::compare(include_str!("mod.rs"), &compared);
    }
}
