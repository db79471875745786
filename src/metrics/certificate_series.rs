//! The series of the certificates in force.

use std::{
    collections::{BTreeMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use super::visitor::{Family, Value, Visitor};
use crate::stats::CertificateReading;

/// Visits the certificates, which come with the first to expire at the beginning.
pub(super) fn visit(readings: &[CertificateReading], visitor: &mut dyn Visitor) {
    let mut counts = BTreeMap::<&str, usize>::new();
    for reading in readings {
        *counts.entry(&reading.listener).or_default() += 1;
    }
    visitor.family(&CERTIFICATES);
    for (listener, count) in counts {
        visitor.sample(&[("listener", listener)], &Value::Gauge(count as f64));
    }
    let mut seen = HashSet::new();
    // Of several with the same labels, the first to expire counts.
    let first = readings
        .iter()
        .map(|reading| (labels(reading), &*reading.certificate));
    let first = first.filter(|(labels, _)| seen.len() < MAX_SERIES && seen.insert(*labels));
    let first: Vec<_> = first.collect();
    visitor.family(&EXPIRY);
    for (labels, certificate) in &first {
        // No client accepts a placeholder, and the alerts know certificates by their times alone.
        let until = match certificate.is_placeholder() {
            true => certificate.not_before,
            false => certificate.not_after,
        };
        visitor.sample(labels, &Value::Gauge(seconds(until)));
    }
    visitor.family(&NOT_BEFORE);
    for (labels, certificate) in &first {
        visitor.sample(labels, &Value::Gauge(seconds(certificate.not_before)));
    }
}

/// Those that were looked up on demand share one series for each listener: clients choose their names.
fn labels(reading: &CertificateReading) -> [(&'static str, &str); 4] {
    let certificate = &*reading.certificate;
    let (name, key, serial) = match certificate.on_demand {
        true => (ON_DEMAND, "", ""),
        false => (certificate.name(), certificate.key, &*certificate.serial),
    };
    [
        ("listener", &*reading.listener),
        ("name", name),
        ("key", key),
        ("serial", serial),
    ]
}

fn seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(error) => -error.duration().as_secs_f64(),
    }
}

/// What stands for the names of all certificates on demand.
const ON_DEMAND: &str = "on demand";
/// Some 400 KiB of text. A scrape of more helps no alert: those that expire first are there.
pub(super) const MAX_SERIES: usize = 1_000;
const CERTIFICATES: Family<'_> = Family::gauge(
    "evenkeel_tls_certificates",
    "Certificates in force, by the listener that shows them.",
);
const EXPIRY: Family<'_> = Family::gauge(
    "evenkeel_tls_certificate_expiry_timestamp_seconds",
    "When each certificate in force expires, in seconds since 1970.",
)
.unit("seconds");
const NOT_BEFORE: Family<'_> = Family::gauge(
    "evenkeel_tls_certificate_not_before_timestamp_seconds",
    "From when on each certificate in force is valid, in seconds since 1970.",
)
.unit("seconds");

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::context::CertificateInfo;

    #[derive(Default)]
    struct Lines(Vec<String>);

    impl Visitor for Lines {
        fn family(&mut self, _: &Family<'_>) {}

        fn sample(&mut self, labels: &[(&str, &str)], value: &Value<'_>) {
            let labels: Vec<_> = labels.iter().map(|(_, value)| *value).collect();
            let Value::Gauge(value) = value else {
                panic!("a gauge");
            };
            self.0.push(format!("{}={value}", labels.join(" ")));
        }
    }

    fn reading(name: &str, not_after: u64, on_demand: bool) -> CertificateReading {
        let certificate = CertificateInfo {
            id: None,
            path: None,
            names: [name.into()].into(),
            issuer: "".into(),
            not_before: UNIX_EPOCH + Duration::from_secs(not_after / 2),
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
            serial: "0a".into(),
            fingerprint: "".into(),
            key: "RSA",
            on_demand,
        };
        CertificateReading {
            listener: "l".into(),
            certificate: Arc::new(certificate),
        }
    }

    fn lines(readings: &[CertificateReading]) -> Vec<String> {
        let mut lines = Lines::default();
        visit(readings, &mut lines);
        lines.0
    }

    #[test]
    fn each_set_of_labels_is_there_once_and_those_on_demand_share_one() {
        let readings = [
            reading("a", 2, false),
            reading("x", 4, true),
            reading("a", 6, false),
            reading("y", 8, true),
        ];
        let wanted = [
            "l=4",
            "l a RSA 0a=2",
            "l on demand  =4",
            // When it begins to be valid.
            "l a RSA 0a=1",
            "l on demand  =2",
        ];
        assert_eq!(lines(&readings), wanted);
    }

    #[test]
    fn a_placeholder_has_expired_since_it_was_made() {
        let mut placeholder = reading("a", 4, false);
        let issuer = format!("CN={}", CertificateInfo::PLACEHOLDER);
        Arc::get_mut(&mut placeholder.certificate).unwrap().issuer = issuer.into();
        assert_eq!(
            lines(&[placeholder]),
            ["l=1", "l a RSA 0a=2", "l a RSA 0a=2"]
        );
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let readings: Vec<_> = (0..5_000)
            .map(|n| reading(&n.to_string(), n, false))
            .collect();
        let lines = lines(&readings);
        assert_eq!(lines.len(), 1 + 2 * MAX_SERIES);
        assert_eq!(lines[0], "l=5000");
        assert_eq!(lines[1], "l 0 RSA 0a=0", "the first to expire");
    }
}
