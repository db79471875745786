//! The certificates in force, as the report has them.

use std::time::SystemTime;

use serde::Serialize;

use super::time::{Clocks, Moment};
use crate::stats::{CertificateReading, CertificateRegistry, Expiry};

/// Those that expire first, and how many there are.
#[derive(Debug, Default, Serialize)]
pub(super) struct CertificateReport {
    #[serde(rename = "certificates")]
    pub(super) first: Vec<CertificateStatus>,
    #[serde(rename = "certificates_total")]
    pub(super) total: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct CertificateStatus {
    pub(super) name: String,
    /// The first names.
    pub(super) names: Vec<String>,
    pub(super) name_count: usize,
    pub(super) listener: String,
    pub(super) issuer: String,
    pub(super) key: &'static str,
    pub(super) serial: String,
    pub(super) fingerprint: String,
    pub(super) not_before: Moment,
    pub(super) not_after: Moment,
    /// Whole days; below 0 once it has expired.
    pub(super) days_left: i64,
    /// How near its end is: `valid`, `warn`, `error` or `expired`.
    pub(super) expiry: &'static str,
    /// The file or the identifier.
    pub(super) source: Option<String>,
    pub(super) on_demand: bool,
}

impl CertificateReport {
    pub(super) fn collect(registry: &CertificateRegistry, clocks: &Clocks) -> Self {
        let (readings, now) = (registry.read(), SystemTime::now());
        let status = |reading| CertificateStatus::of(reading, registry, (now, clocks));
        Self {
            first: readings.iter().take(MOST).map(status).collect(),
            total: readings.len(),
        }
    }
}

impl CertificateStatus {
    fn of(
        reading: &CertificateReading,
        registry: &CertificateRegistry,
        (now, clocks): (SystemTime, &Clocks),
    ) -> Self {
        let certificate = &*reading.certificate;
        let names = certificate.names.iter().take(MOST_NAMES);
        let path = certificate.path.as_ref();
        let path = path.map(|path| path.display().to_string());
        Self {
            name: certificate.name().to_owned(),
            names: names.map(|name| name.to_string()).collect(),
            name_count: certificate.names.len(),
            listener: reading.listener.to_string(),
            issuer: certificate.issuer.to_string(),
            key: certificate.key,
            serial: certificate.serial.to_string(),
            fingerprint: certificate.fingerprint.to_string(),
            not_before: clocks.wall_moment(certificate.not_before),
            not_after: clocks.wall_moment(certificate.not_after),
            days_left: days_left(certificate.not_after, now),
            expiry: registry.expiry(certificate, now).as_str(),
            source: path.or_else(|| certificate.id.as_ref().map(ToString::to_string)),
            on_demand: certificate.on_demand,
        }
    }

    pub(super) fn is_expired(&self) -> bool {
        self.expiry == Expiry::Expired.as_str()
    }
}

fn days_left(not_after: SystemTime, now: SystemTime) -> i64 {
    let days = |duration: std::time::Duration| {
        i64::try_from(duration.as_secs() / SECONDS_A_DAY).unwrap_or(i64::MAX)
    };
    match not_after.duration_since(now) {
        Ok(left) => days(left),
        Err(over) => -1 - days(over.duration()),
    }
}

/// More than a page shows at a glance. They go to each viewer when one of them changes.
pub(super) const MOST: usize = 100;
/// A certificate may have hundreds.
const MOST_NAMES: usize = 20;
const SECONDS_A_DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn days_are_whole_and_below_zero_after_the_end() {
        let end = UNIX_EPOCH + Duration::from_secs(10 * SECONDS_A_DAY);
        for (now, days) in [
            (0, 10),
            (1, 9),
            (9 * SECONDS_A_DAY, 1),
            (10 * SECONDS_A_DAY, 0),
            (10 * SECONDS_A_DAY + 1, -1),
            (11 * SECONDS_A_DAY + 1, -2),
        ] {
            assert_eq!(days_left(end, UNIX_EPOCH + Duration::from_secs(now)), days);
        }
    }
}
