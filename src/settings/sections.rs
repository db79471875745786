//! The whole file: its sections, and the stack that is made of them.

use std::{fmt, ops::Deref};

use serde::Deserialize;

use super::{
    AccessLogSettings, AdminSettings, FailoverSettings, HealthSettings, ListenSettings,
    PoolSettings, ProxySettings, ServerSettings, SettingsError, StickySettings, parser_messages,
};
use crate::{
    balance::BalanceLayer,
    endpoints::Readiness,
    load_balancer::{Builder, LoadBalancer},
    pool::Pool,
};

/// A whole settings file. The [module docs](super) describe every key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// `[server]`: the process.
    #[serde(default)]
    pub server: ServerSettings,
    /// `[[listen]]`: the addresses that clients connect to.
    pub listen: Vec<ListenSettings>,
    /// `[pool]`: the backends and their selection.
    pub pool: PoolSettings,
    /// `[health]`: active checks and outliers; `None` without the section.
    pub health: Option<HealthSettings>,
    /// `[sticky]`: sticky sessions; `None` without the section.
    pub sticky: Option<StickySettings>,
    /// `[proxy]`: forwarding.
    #[serde(default)]
    pub proxy: ProxySettings,
    /// `[failover]`: retries and hedges; `None` without the section.
    pub failover: Option<FailoverSettings>,
    /// `[access_log]`: the access log; `None` without the section.
    pub access_log: Option<AccessLogSettings>,
    /// `[admin]`: the listener of `/live` and `/ready`; `None` without the section.
    pub admin: Option<AdminSettings>,
    /// The text that was read; later errors take the line of a key from it.
    #[serde(skip)]
    pub(super) text: Text,
}

impl Settings {
    /// Reads and checks settings. Does not read the files that they name: [`tls`](Self::tls) and
    /// [`access_log`](Self::access_log) do.
    ///
    /// # Errors
    ///
    /// Returns the first mistake: its line, its key, and what is accepted.
    pub fn from_toml(text: &str) -> Result<Self, SettingsError> {
        let mut settings: Self =
            toml::from_str(text).map_err(|error| parser_messages::syntax(text, &error))?;
        settings.text = Text(text.to_owned());
        settings.check()?;
        Ok(settings)
    }

    /// Builds everything once, so that `edge --check` reports what a start would.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        self.check_server()?;
        self.check_listen()?;
        let pool = self.pool()?;
        // Each module knows itself what it accepts.
        self.strategy()?;
        let _ = self.health_layer(&pool)?;
        let _ = self.failover_layer()?;
        let _ = self.sticky_layer(&pool)?;
        let _ = self.proxy()?;
        let _ = self.forwarded_layer()?;
        let readiness = Readiness::new(pool);
        for nth in 0..self.listen.len() {
            let _ = self.endpoints_layer(nth, &readiness)?;
        }
        Ok(())
    }

    /// Returns the canonical stack over this pool without the access log. The sink of the log is
    /// opened once and outlives a reload: see [`access_log`](Self::access_log).
    ///
    /// # Errors
    ///
    /// Returns an error if a section is not acceptable, which [`from_toml`](Self::from_toml) has
    /// checked.
    pub fn load_balancer(&self, pool: &Pool) -> Result<Builder, SettingsError> {
        let builder = LoadBalancer::builder(pool.clone())
            .balance(BalanceLayer::new(pool.clone()).strategy(self.strategy()?))?
            .health(self.health_layer(pool)?)?
            .failover(self.failover_layer()?)
            .forwarded(self.forwarded_layer()?)
            .proxy(self.proxy()?);
        match self.sticky_layer(pool)? {
            Some(sticky) => Ok(builder.sticky(sticky)?),
            None => Ok(builder),
        }
    }
}

/// The whole text. It holds the keys of `[sticky]`, so its `Debug` shows nothing.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Text(pub(super) String);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};
    use http_body_util::Empty;
    use tower_service::Service;

    use super::*;

    #[tokio::test]
    async fn reloads_leave_no_tables_and_no_attachments_behind() {
        let text = |strategy: &str, round: usize| {
            format!(
                "[[listen]]\naddress = \"127.0.0.1:0\"\n[pool]\nstrategy = \"{strategy}\"\n{}\
                 [[pool.backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\nweight = {}\n\
                 [sticky]\nkeys = [\"{}\"]\n[health]\npath = \"/{round}\"\ninterval = \"1h\"\n",
                if strategy == "consistent-hash" {
                    "hash = \"path\"\n"
                } else {
                    ""
                },
                1 + round % 2,
                "ab".repeat(32),
            )
        };
        let settings = |round| {
            let strategy = ["peak-ewma", "consistent-hash"][round % 2];
            Settings::from_toml(&text(strategy, round)).unwrap()
        };
        let pool = settings(0).pool().unwrap();
        let mut running = None;
        let mut most = ((0, 0), 0);
        for round in 0..100 {
            let settings = settings(round);
            let mut balancer = settings.load_balancer(&pool).unwrap().build();
            pool.replace(settings.backends().unwrap()).unwrap();
            if round % 10 < 2 {
                let request = Request::new(Empty::<bytes::Bytes>::new());
                let response = balancer.call(request).await.unwrap();
                assert_eq!(response.status().as_u16() / 100, 5, "{response:?}");
                assert_ne!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            }
            // The old balancer goes, with its task of checks.
            drop(running.replace(balancer));
            tokio::task::yield_now().await;
            let snapshot = pool.snapshot();
            let backend = &snapshot.backends()[0];
            let now = (snapshot.count_tables(), backend.count_attachments());
            if round < 10 {
                most = most.max(now);
            }
            assert!(
                now.0.0 <= most.0.0.max(4) && now.0.1 <= most.0.1.max(4) && now.1 <= most.1.max(8),
                "round {round}: {now:?}, at first {most:?}"
            );
        }
    }
}
