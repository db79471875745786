//! The configurations of rustls that a layer serves: one for each policy.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    version::{TLS12, TLS13},
};

use super::{
    ClientAuth, HostPolicy, TlsConfig, TlsVersion, certificates::Resolver, client_auth::Trust,
    host_policy::Inherit, process_keys::TicketKeys,
};
use crate::{
    connect::provider,
    context::{ConnPolicy, HostPolicies},
};

/// The policies of a layer: number 0 is that of the hosts without one of their own.
pub(super) struct Configs {
    policies: Vec<Policy>,
    /// `None` if there is one policy for all hosts.
    hosts: Option<Arc<HostPolicies>>,
    /// `None` if no tickets are issued, or their keys are derived from a secret.
    pub(super) ticket_keys: Option<TicketKeys>,
}

impl Configs {
    pub(super) fn new(config: &TlsConfig) -> Self {
        let resolver = Resolver::new(config.certificates.clone(), config.strict_sni);
        let resolver: Arc<dyn ResolvesServerCert> = Arc::new(resolver);
        let makes_keys = config.tickets && config.ticket_secret.is_none();
        let ticket_keys = makes_keys.then(TicketKeys::generate).flatten();
        let policy = |host| Policy::new(config, host, resolver.clone(), ticket_keys.as_ref());
        let hosts = config.hosts.iter().map(Some);
        let policies = [None].into_iter().chain(hosts).map(policy).collect();
        let names = config.hosts.iter().map(|(name, _)| &**name);
        let hosts = (!config.hosts.is_empty()).then(|| Arc::new(HostPolicies::new(names)));
        Self {
            policies,
            hosts,
            ticket_keys,
        }
    }

    pub(super) fn from_rustls(config: Arc<ServerConfig>) -> Self {
        Self {
            policies: vec![Policy::Fixed(config)],
            hosts: None,
            ticket_keys: None,
        }
    }

    /// Returns the number of the policy for a server name, which rustls has put in lower case.
    pub(super) fn find(&self, server_name: Option<&str>) -> usize {
        match (&self.hosts, server_name) {
            (Some(hosts), Some(name)) => hosts.find(name),
            _ => 0,
        }
    }

    /// Returns the configuration of a policy. `number` is one that [`find`](Self::find) returned.
    pub(super) fn get(&self, number: usize) -> Arc<ServerConfig> {
        self.policies[number].current()
    }

    pub(super) fn conn_policy(&self, number: usize) -> Option<ConnPolicy> {
        let hosts = self.hosts.clone()?;
        Some(ConnPolicy { hosts, number })
    }
}

enum Policy {
    Fixed(Arc<ServerConfig>),
    /// It asks for client certificates, and the roots may change.
    WithClients {
        recipe: Recipe,
        auth: ClientAuth,
        /// The configuration, and the generation of the roots that it has.
        current: ArcSwap<(u64, Arc<ServerConfig>)>,
    },
}

/// What a configuration is made of.
struct Recipe {
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    resolver: Arc<dyn ResolvesServerCert>,
    /// `None` if no tickets are issued.
    tickets: Option<Arc<dyn ProducesTickets>>,
}

impl Policy {
    fn new(
        config: &TlsConfig,
        host: Option<&(Box<str>, HostPolicy)>,
        resolver: Arc<dyn ResolvesServerCert>,
        keys: Option<&TicketKeys>,
    ) -> Self {
        let (name, policy) = match host {
            Some((name, policy)) => (&**name, Some(policy)),
            None => ("", None),
        };
        let min_version = policy.and_then(|policy| policy.min_version);
        let alpn = policy.and_then(|policy| policy.alpn.clone());
        let auth = match policy.map(|policy| &policy.client_auth) {
            Some(Inherit::Own(auth)) => auth.clone(),
            Some(Inherit::Inherited) | None => config.client_auth.clone(),
        };
        let has_tickets = config.tickets && auth.is_none();
        let recipe = Recipe {
            versions: match min_version.unwrap_or(config.min_version) {
                TlsVersion::V1_2 => vec![&TLS13, &TLS12],
                TlsVersion::V1_3 => vec![&TLS13],
            },
            alpn: alpn.unwrap_or_else(|| config.alpn.clone()),
            resolver,
            tickets: has_tickets.then(|| tickets(config, keys, name)).flatten(),
        };
        match auth {
            None => Self::Fixed(recipe.make(None)),
            Some(auth) => {
                config.certificates.follow(&auth);
                let trust = auth.current();
                let made = (trust.generation, recipe.make(Some(&trust)));
                Self::WithClients {
                    recipe,
                    auth,
                    current: ArcSwap::from_pointee(made),
                }
            }
        }
    }

    fn current(&self) -> Arc<ServerConfig> {
        match self {
            Self::Fixed(config) => config.clone(),
            Self::WithClients {
                recipe,
                auth,
                current,
            } => {
                let made = current.load();
                if made.0 == auth.generation() {
                    return made.1.clone();
                }
                let trust = auth.current();
                let config = recipe.make(Some(&trust));
                current.store(Arc::new((trust.generation, config.clone())));
                config
            }
        }
    }
}

impl Recipe {
    fn make(&self, trust: Option<&Trust>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = match builder.with_protocol_versions(&self.versions) {
            Ok(builder) => builder,
            // Unreachable: the suites of both providers support both versions.
            Err(error) => unreachable!("{error}"),
        };
        let builder = match trust {
            Some(trust) => builder.with_client_cert_verifier(trust.verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.resolver.clone());
        config.alpn_protocols = self.alpn.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &self.tickets {
            Some(tickets) => config.ticketer = tickets.clone(),
            None => config.send_tls13_tickets = 0,
        }
        Arc::new(config)
    }
}

/// Makes the ticket keys of the policy: no two policies have the same, so that a session is resumed under
/// the policy that began it, or not at all.
fn tickets(
    config: &TlsConfig,
    keys: Option<&TicketKeys>,
    name: &str,
) -> Option<Arc<dyn ProducesTickets>> {
    let made: Option<Arc<dyn ProducesTickets>> = match &config.ticket_secret {
        Some(secret) => secret.keys(name).map(|keys| Arc::new(keys) as _),
        None => keys
            .and_then(|keys| keys.of_policy(name))
            .map(|keys| Arc::new(keys) as _),
    };
    if made.is_none() {
        tracing::warn!(target: "evenkeel::tls", "no session tickets: there is no randomness for keys");
    }
    made
}
