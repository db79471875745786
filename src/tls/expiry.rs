//! Which certificates are due for a reminder that they expire.

use std::{
    collections::{HashMap, hash_map::Entry},
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
    /// By fingerprint. One that is gone is kept for a day, so that a certificate that comes and goes, as
    /// those on demand do, is not due each time.
    said: HashMap<Box<str>, (Expiry, SystemTime)>,
}

/// The certificates that are due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// The first to expire first, [`MAX_DUE`] at most.
    pub(super) reminders: Vec<Reminder>,
    /// How many more are due. They are among the first of the next readings.
    pub(super) left_out: usize,
    /// The nearest end of those; `None` if there are none.
    pub(super) worst_left_out: Option<Expiry>,
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
    /// Returns the certificates that are due at the time `now`. One that is replaced is mentioned no more.
    pub(super) fn due(
        &mut self,
        registry: &CertificateRegistry,
        readings: &[CertificateReading],
        now: SystemTime,
    ) -> Due {
        let mut due = Due::default();
        // The place among the reminders of each certificate that was seen.
        let mut seen = HashMap::<&str, Option<usize>>::new();
        for CertificateReading {
            listener,
            certificate,
            ..
        } in readings
        {
            let expiry = registry.expiry(certificate, now);
            if expiry == Expiry::Far || is_new_placeholder(certificate, now) {
                continue;
            }
            let place = match seen.entry(&certificate.fingerprint) {
                Entry::Vacant(place) => place,
                Entry::Occupied(place) => {
                    // The certificate of several listeners is one.
                    if let Some(reminder) = place.get().and_then(|at| due.reminders.get_mut(at)) {
                        reminder.listeners.push_str(", ");
                        reminder.listeners.push_str(listener);
                    }
                    continue;
                }
            };
            let is_due = !self.rests(&certificate.fingerprint, expiry, now);
            let at = (is_due && due.reminders.len() < MAX_DUE).then_some(due.reminders.len());
            place.insert(at);
            if at.is_some() {
                let said = certificate.fingerprint.clone();
                self.said.insert(said, (expiry, now));
                due.reminders.push(Reminder {
                    expiry,
                    certificate: certificate.clone(),
                    listeners: listener.to_string(),
                });
            } else if is_due {
                due.left_out += 1;
                due.worst_left_out = due.worst_left_out.max(Some(expiry));
            }
        }
        self.said
            .retain(|fingerprint, (_, at)| seen.contains_key(&**fingerprint) || !is_over(*at, now));
        due
    }

    /// Returns true if the same was said within a day, or that the end is nearer still.
    fn rests(&self, fingerprint: &str, expiry: Expiry, now: SystemTime) -> bool {
        let said = self.said.get(fingerprint);
        said.is_some_and(|(last, at)| *last >= expiry && !is_over(*at, now))
    }
}

/// Returns true while the first order may still be under way: that is no reason to call an operator.
fn is_new_placeholder(certificate: &CertificateInfo, now: SystemTime) -> bool {
    let age = now.duration_since(certificate.not_before);
    certificate.is_placeholder() && age.is_ok_and(|age| age < FIRST_ORDER)
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
/// A store of thousands of certificates must not fill the log in one reading.
pub(super) const MAX_DUE: usize = 100;
/// Orders take seconds, and minutes with DNS-01.
const FIRST_ORDER: Duration = Duration::from_secs(300);

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
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
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
            let due: Vec<_> = due
                .reminders
                .iter()
                .map(|reminder| reminder.expiry)
                .collect();
            assert_eq!(due, wanted.as_slice(), "{now:?}");
        }
    }

    #[test]
    fn one_of_several_listeners_is_one_and_one_that_is_replaced_is_forgotten() {
        let (registry, old) = (CertificateRegistry::new(), certificate("old"));
        reading(&registry, "l", &old);
        let readings = reading(&registry, "m", &old);
        let mut reminders = Reminders::default();
        let due = reminders.due(&registry, &readings, days(80)).reminders;
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].listeners, "l, m");
        assert_eq!(days_left(&due[0].certificate, days(80)), 20);
        assert_eq!(days_left(&due[0].certificate, days(101)), 0);
        drop((old, readings, due));
        assert!(registry.read().is_empty(), "the registry keeps nothing");
        let gone = reminders.due(&registry, &[], days(80));
        assert!(gone.reminders.is_empty());
        assert_eq!(reminders.said.len(), 1, "it may come back within a day");
        reminders.due(&registry, &[], days(81));
        assert!(reminders.said.is_empty());
    }

    #[test]
    fn one_that_comes_and_goes_is_due_once_a_day() {
        let (registry, end) = (CertificateRegistry::new(), certificate("a"));
        let readings = reading(&registry, "l", &end);
        let mut reminders = Reminders::default();
        for (now, is_there, count) in [
            (hours(80 * 24), true, 1),
            (hours(80 * 24 + 1), false, 0),
            (hours(80 * 24 + 2), true, 0),
            (hours(81 * 24), true, 1),
        ] {
            let readings = if is_there { &readings[..] } else { &[] };
            let due = reminders.due(&registry, readings, now);
            assert_eq!(due.reminders.len(), count, "{now:?}");
        }
    }

    #[test]
    fn what_is_beyond_the_limit_is_due_at_the_next_readings() {
        let registry = CertificateRegistry::new();
        let end = certificate("");
        let readings = |count: usize| -> Vec<_> {
            let one = |n: usize| CertificateReading {
                listener: "l".into(),
                certificate: Arc::new(CertificateInfo {
                    fingerprint: n.to_string().into(),
                    // The last have expired at day 80.
                    not_after: if n < 240 { end.not_after } else { days(70) },
                    ..CertificateInfo::clone(&end)
                }),
            };
            (0..count).map(one).collect()
        };
        let mut reminders = Reminders::default();
        let mut named = std::collections::HashSet::new();
        let mut read = |count: usize, now, wanted: (usize, usize, Option<Expiry>)| {
            let due = reminders.due(&registry, &readings(count), now);
            let found = (due.reminders.len(), due.left_out, due.worst_left_out);
            assert_eq!(found, wanted, "{now:?}");
            let names = due.reminders.iter();
            let names = names.map(|reminder| reminder.certificate.fingerprint.clone());
            named.extend(names);
            named.len()
        };
        let minutes = |n: u64| days(80) + Duration::from_secs(n * 60);
        assert_eq!(read(240, minutes(0), (100, 140, Some(Expiry::Warn))), 100);
        assert_eq!(read(250, minutes(1), (100, 50, Some(Expiry::Expired))), 200);
        assert_eq!(read(250, minutes(2), (50, 0, None)), 250);
        assert_eq!(read(250, minutes(3), (0, 0, None)), 250);
        let again = days(81);
        assert_eq!(
            read(250, again, (100, 0, None)),
            250,
            "a day after the first"
        );
    }

    #[test]
    fn a_placeholder_is_due_when_an_order_should_have_succeeded() {
        let (registry, made) = (CertificateRegistry::new(), certificate("a"));
        let placeholder = Arc::new(CertificateInfo {
            issuer: format!("CN={}", CertificateInfo::PLACEHOLDER).into(),
            not_before: days(99),
            ..CertificateInfo::clone(&made)
        });
        assert!(placeholder.is_placeholder() && !made.is_placeholder());
        let readings = reading(&registry, "l", &placeholder);
        let mut reminders = Reminders::default();
        let minutes = |minutes: u64| days(99) + Duration::from_secs(minutes * 60);
        for (now, wanted) in [
            (minutes(0), None),
            (minutes(4), None),
            (minutes(5), Some(Expiry::Error)),
            (minutes(6), None),
            (hours(100 * 24 + 1), Some(Expiry::Expired)),
        ] {
            let due = reminders.due(&registry, &readings, now);
            let due: Vec<_> = due
                .reminders
                .iter()
                .map(|reminder| reminder.expiry)
                .collect();
            assert_eq!(due, wanted.as_slice(), "{now:?}");
        }
    }
}
