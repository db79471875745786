//! Which certificates are due for a reminder that they expire.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    context::CertificateInfo,
    stats::{CertificateReading, CertificateRegistry, Expiry},
};

/// What was said so far: once a day for each certificate, and at once when its end comes nearer by a
/// threshold.
#[derive(Default)]
pub(super) struct Reminders {
    /// By fingerprint.
    said: HashMap<Box<str>, (Expiry, SystemTime)>,
}

/// A certificate that is due.
#[derive(Debug)]
pub(super) struct Reminder {
    pub(super) expiry: Expiry,
    pub(super) certificate: Arc<CertificateInfo>,
    /// The names of its listeners.
    pub(super) listeners: String,
}

impl Reminders {
    /// Returns the certificates that are due at the time `now`, and forgets those that are gone: a
    /// certificate that is replaced is mentioned no more.
    pub(super) fn due(
        &mut self,
        registry: &CertificateRegistry,
        readings: &[CertificateReading],
        now: SystemTime,
    ) -> Vec<Reminder> {
        let mut said = HashMap::with_capacity(self.said.len());
        let mut due: Vec<Reminder> = Vec::new();
        for CertificateReading {
            listener,
            certificate,
            ..
        } in readings
        {
            let expiry = registry.expiry(certificate, now);
            if expiry == Expiry::Far {
                continue;
            }
            let fingerprint = &certificate.fingerprint;
            if said.contains_key(fingerprint) {
                // The certificate of several listeners is one.
                let same = |due: &&mut Reminder| due.certificate.fingerprint == *fingerprint;
                if let Some(reminder) = due.iter_mut().find(same) {
                    reminder.listeners.push_str(", ");
                    reminder.listeners.push_str(listener);
                }
                continue;
            }
            let before = self.said.get(fingerprint).copied();
            let rests = before.filter(|(last, at)| *last >= expiry && !is_over(*at, now));
            said.insert(fingerprint.clone(), rests.unwrap_or((expiry, now)));
            if rests.is_none() {
                due.push(Reminder {
                    expiry,
                    certificate: certificate.clone(),
                    listeners: listener.to_string(),
                });
            }
        }
        self.said = said;
        due
    }
}

/// Returns true if a day has passed, and if the clock was set back, so that an error of the clock does
/// not silence reminders for as long as it was wrong.
fn is_over(said: SystemTime, now: SystemTime) -> bool {
    let since = now.duration_since(said);
    since.is_err() || since.is_ok_and(|since| since >= AGAIN)
}

/// The days that are left, for a log line; 0 on the last day and behind it.
pub(super) fn days_left(certificate: &CertificateInfo, now: SystemTime) -> u64 {
    let left = certificate.not_after.duration_since(now);
    left.map_or(0, |left| left.as_secs() / AGAIN.as_secs())
}

/// A day: often enough to be seen, seldom enough to be read.
const AGAIN: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn hours(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(hours * 3_600)
    }

    fn days(days: u64) -> SystemTime {
        hours(days * 24)
    }

    /// A certificate that ends at day 100.
    fn certificate(fingerprint: &str) -> Arc<CertificateInfo> {
        let mut params = rcgen::CertificateParams::new(["a.test".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 4, 11);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let facts = crate::connect::x509::Facts::of(made.der()).unwrap();
        Arc::new(CertificateInfo {
            fingerprint: fingerprint.into(),
            ..facts.describe(made.der(), rustls::SignatureAlgorithm::ECDSA)
        })
    }

    fn reading(
        registry: &CertificateRegistry,
        listener: &str,
        certificate: &Arc<CertificateInfo>,
    ) -> Vec<CertificateReading> {
        registry.add(listener, certificate);
        registry.read()
    }

    #[test]
    fn each_certificate_is_due_once_a_day_and_when_its_end_comes_nearer() {
        let (registry, end) = (CertificateRegistry::new(), certificate("a"));
        assert_eq!(end.not_after, days(100));
        let readings = reading(&registry, "l", &end);
        let mut reminders = Reminders::default();
        for (now, wanted) in [
            (days(1), None),
            (days(69), None),
            (days(70), Some(Expiry::Warn)),
            (days(70), None),
            (hours(70 * 24 + 23), None),
            (days(71), Some(Expiry::Warn)),
            // A day without a reading is not made up for.
            (days(73), Some(Expiry::Warn)),
            (hours(73 * 24 + 1), None),
            (hours(93 * 24 - 1), Some(Expiry::Warn)),
            (days(93), Some(Expiry::Error)),
            (hours(94 * 24 - 1), None),
            (hours(100 * 24 - 1), Some(Expiry::Error)),
            (hours(100 * 24 + 1), Some(Expiry::Expired)),
            (hours(100 * 24 + 2), None),
            (hours(101 * 24 + 1), Some(Expiry::Expired)),
            // The clock was wrong, and is set back.
            (days(75), Some(Expiry::Warn)),
            (hours(75 * 24 + 1), None),
        ] {
            let due = reminders.due(&registry, &readings, now);
            let due: Vec<_> = due.iter().map(|reminder| reminder.expiry).collect();
            assert_eq!(due, wanted.as_slice(), "{now:?}");
        }
    }

    #[test]
    fn one_of_several_listeners_is_one_and_one_that_is_replaced_is_forgotten() {
        let (registry, old) = (CertificateRegistry::new(), certificate("old"));
        reading(&registry, "l", &old);
        let readings = reading(&registry, "m", &old);
        let mut reminders = Reminders::default();
        let due = reminders.due(&registry, &readings, days(80));
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].listeners, "l, m");
        assert_eq!(days_left(&due[0].certificate, days(80)), 20);
        assert_eq!(days_left(&due[0].certificate, days(101)), 0);
        drop((old, readings, due));
        assert!(registry.read().is_empty(), "the registry keeps nothing");
        assert!(reminders.due(&registry, &[], days(80)).is_empty());
        assert!(reminders.said.is_empty());
    }
}
