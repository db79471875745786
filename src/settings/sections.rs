//! The whole file: its sections, and the stack that is made of them.
//!
//! `Settings` dereferences to its sections, immutably: a section that could be changed behind the
//! check would no longer agree with the layers that were made of it. There is no `DerefMut`, and a
//! `compile_fail` example holds that.

use std::{fmt, ops::Deref};

use serde::Deserialize;

use super::{
    AccessLogSettings, AdminSettings, FailoverSettings, FleetSettings, HealthSettings,
    ListenSettings, PoolSettings, ProxySettings, ServerSettings, SettingsError, StickySettings,
    TraceSettings,
    draft::{Draft, Parts},
};
use crate::{
    balance::BalanceLayer,
    load_balancer::{Builder, LoadBalancer},
    pool::Pool,
};

/// A settings file that was read and checked. The [module docs](super) describe every key.
///
/// The sections are fields: see [`Sections`], which this type dereferences to. They can be read and
/// not changed, so a layer that is made of them needs no second check. To change what a program
/// runs with, read another text.
///
/// ```compile_fail
/// # fn change(mut settings: evenkeel::settings::Settings) {
/// settings.pool.panic = None; // the layers would not follow
/// # }
/// ```
#[derive(Clone)]
pub struct Settings {
    pub(super) draft: Draft,
    /// What the modules made of the sections when they checked them.
    pub(super) parts: Parts,
}

/// The sections of a settings file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Sections {
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
    /// `[trace]`: traces; `None` without the section.
    pub trace: Option<TraceSettings>,
    /// `[access_log]`: the access log; `None` without the section.
    pub access_log: Option<AccessLogSettings>,
    /// `[admin]`: the listener for operators; `None` without the section.
    pub admin: Option<AdminSettings>,
    /// `[fleet]`: what several instances share, and how one process replaces another; `None` without the section.
    #[serde(default, deserialize_with = "super::fleet::section")]
    pub fleet: Option<FleetSettings>,
}

impl Settings {
    /// Reads and checks settings. Reads the files of `[proxy.tls]`; those that other sections name are
    /// read by [`tls`](Self::tls), [`access_log`](Self::access_log) and
    /// [`admin_token`](Self::admin_token).
    ///
    /// # Errors
    ///
    /// Returns the first mistake: its line, its key, and what is accepted.
    pub fn from_toml(text: &str) -> Result<Self, SettingsError> {
        let draft = Draft::read(text)?;
        let parts = draft.parts()?;
        Ok(Self { draft, parts })
    }

    /// Returns the canonical stack over this pool without the access log. The sink of the log is
    /// opened once and outlives a reload: see [`access_log`](Self::access_log).
    pub fn load_balancer(&self, pool: &Pool) -> Builder {
        let balance = BalanceLayer::new(pool.clone()).strategy(self.strategy());
        let builder = LoadBalancer::builder(pool.clone())
            .layers_of_its_pool(balance, self.health_layer(pool), self.sticky_layer(pool))
            .failover(self.failover_layer())
            .forwarded(self.forwarded_layer())
            .proxy(self.proxy());
        match self.trace_layer() {
            Some(layer) => builder.trace(layer),
            None => builder,
        }
    }
}

impl Deref for Settings {
    type Target = Sections;

    fn deref(&self) -> &Sections {
        &self.draft.sections
    }
}

/// Settings are equal if their sections are.
impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settings").field(&**self).finish()
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
        let pool = settings(0).pool();
        let mut running = None;
        let mut most = ((0, 0), 0);
        for round in 0..100 {
            let settings = settings(round);
            let mut balancer = settings.load_balancer(&pool).build();
            pool.replace(settings.backends()).unwrap();
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
