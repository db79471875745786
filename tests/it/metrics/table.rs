//! The documented table is what is exposed, name for name.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::{
    context::{
        ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, HandshakeFailure, Peer,
        TlsInfo,
    },
    fleet::{Fleet, RedisStore},
    metrics::{Family, Kind, Value, Visitor},
    tls::{Certificate, Certificates},
};

use super::*;
use crate::support::pki::Authority;

/// Type, unit and labels by name.
type Table = BTreeMap<String, (String, String, BTreeSet<String>)>;

fn documented() -> Table {
    let docs = include_str!("../../../src/metrics/mod.rs");
    let rows = docs
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `evenkeel_"));
    rows.map(|row| {
        let mut cells = row.split(" | ");
        let name = cells.next().unwrap().trim_end_matches('`');
        let (kind, unit, labels) = (cells.next(), cells.next(), cells.next());
        let labels = labels.unwrap().split(", ").filter(|label| *label != "–");
        let labels = labels.map(|label| label.trim_matches('`').to_owned());
        let facts = (
            kind.unwrap().to_owned(),
            unit.unwrap().to_owned(),
            labels.collect(),
        );
        (format!("evenkeel_{name}"), facts)
    })
    .collect()
}

#[derive(Default)]
struct Exposed {
    table: Table,
    name: String,
}

impl Visitor for Exposed {
    fn family(&mut self, family: &Family<'_>) {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Info => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
            _ => panic!("a kind that the table does not know"),
        };
        if let Some(unit) = family.unit {
            assert!(
                family.name.ends_with(&format!("_{unit}")),
                "{}",
                family.name
            );
        }
        assert!(family.help.ends_with('.'), "{}", family.name);
        self.name = format!("{}{}", family.name, family.ending());
        let facts = (
            kind.to_owned(),
            family.unit.unwrap_or("–").to_owned(),
            BTreeSet::new(),
        );
        let before = self.table.insert(self.name.clone(), facts);
        assert!(before.is_none(), "{} is begun once", self.name);
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: &Value<'_>) {
        let (kind, _, known) = self.table.get_mut(&self.name).unwrap();
        known.extend(labels.iter().map(|(name, _)| (*name).to_owned()));
        let fits = match value {
            Value::Counter(_) => "counter",
            Value::Gauge(_) => "gauge",
            Value::Histogram(_) => "histogram",
            _ => "summary",
        };
        assert_eq!(kind, fits, "{}", self.name);
    }
}

#[tokio::test]
async fn the_documented_series_are_those_that_are_exposed() {
    let a = Origin::named("a").await;
    let world = World::new(&[("a", a.url())], |builder, pool| {
        builder
            .sticky(StickyLayer::new(pool, Keys::new([7; 32])))
            .unwrap()
    })
    .await;
    world.get("/").await;
    world.at_rest().await;
    // What this world has not: TLS, its certificates, and connections that fail.
    let stats = world.service.stats();
    let conn = ConnInfo::new(Peer::Unknown, Peer::Tcp(world.address));
    conn.set_tls(TlsInfo::default());
    stats.handshake_ended(&conn);
    let failed = ConnectionEvent::new(conn, ConnectionEventKind::TlsHandshake, "", Duration::ZERO);
    let failed = failed.failed_handshake(HandshakeFailure::ClientAlert, None);
    stats.connection_ended(&failed);
    let issued = Authority::new().issue(&["localhost"]);
    let certificate = Certificate::pem(issued.chain, issued.key);
    let certificates = Certificates::new([certificate]).unwrap();
    certificates.show_in(&stats.certificates(), "l");
    // A fleet, whose store need not be there.
    let store = RedisStore::new("unix:///nowhere/redis.sock").unwrap();
    let fleet = Fleet::new(store, world.pool.clone()).start().await;
    fleet.add_gauge(stats);
    let mut exposed = Exposed::default();
    world.service.visit(&mut exposed);
    let documented = documented();
    assert!(documented.len() > 40, "the table must be found");
    for (name, facts) in &documented {
        let found = exposed.table.get(name);
        let linux_only = name.contains("_process_") && !cfg!(target_os = "linux");
        assert!(
            linux_only || found == Some(facts),
            "{name}: {found:?}, documented {facts:?}"
        );
    }
    for name in exposed.table.keys() {
        assert!(documented.contains_key(name), "{name} is not documented");
    }
}

#[tokio::test]
async fn each_backend_is_in_one_state_of_each_kind() {
    let a = Origin::named("a").await;
    let world = World::new(&[("a", a.url()), ("b", a.url()), ("c", a.url())], keep).await;
    world.pool.start_maintenance("b").unwrap();
    world.pool.drain("c", Duration::from_secs(60)).unwrap();
    let series = world.series();
    for id in ["a", "b", "c"] {
        for name in ["health", "circuit", "mode"] {
            let name = format!("evenkeel_backend_{name}");
            let label = format!("backend=\"{id}\"");
            assert_eq!(
                series.sum(&name, &[&label]),
                1.0,
                "{name} of {id}: {series:?}"
            );
        }
    }
    assert_eq!(
        series.get("evenkeel_backend_mode", "backend=\"c\",mode=\"draining\""),
        1.0
    );
    assert_eq!(series.get("evenkeel_pool_backends_usable", ""), 1.0);
}
