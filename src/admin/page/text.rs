//! Values in the words of the page. `script.js` has the same functions under the same names: what it
//! shows of an update must read as what the server rendered, which a test compares in a browser.

use std::time::Duration;

use super::super::{
    certificates::CertificateStatus,
    change::Change,
    status::{BackendStatus, ReasonStatus, State, Status},
};

/// Returns the text of a value, or what stands for one that is not known.
pub(super) fn known<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.into(), text)
}

pub(super) fn title(status: &Status) -> String {
    let pool = &status.pool;
    let name = match status.name.is_empty() {
        true => String::new(),
        false => format!(" {}", status.name),
    };
    format!("{}/{} usable – evenkeel{name}", pool.usable, pool.backends)
}

/// A number a second, or a weight.
pub(super) fn number(value: f64) -> String {
    match value {
        v if v == 0.0 || v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => trim(format!("{v:.1}")),
        v => trim(format!("{v:.2}")),
    }
}

fn trim(text: String) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

/// Milliseconds.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 1_000.0 => format!("{} s", number(ms / 1_000.0)),
        ms => format!("{} ms", number(ms)),
    }
}

/// A duration in the two units that say most.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, unit, small: u64, smaller| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {smaller}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

pub(super) fn window(seconds: f64) -> String {
    duration(Duration::from_secs_f64(seconds.round().max(1.0)))
}

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Degraded => "degraded",
        State::Down => "down",
        State::Draining => "draining",
        State::Ejected => "ejected",
        State::Evacuated => "evacuated",
        State::Flapping => "flapping",
        State::Maintenance => "maintenance",
        State::Unchecked => "unchecked",
        State::Up => "up",
        State::Weightless => "weight 0",
    }
}

/// The class of a row, for its colour and its sign.
pub(super) fn class(state: State) -> &'static str {
    match state {
        State::Weightless => "weightless",
        other => self::state(other),
    }
}

fn reason_text(reason: &ReasonStatus) -> String {
    match reason.detail.is_empty() {
        true => reason.code.to_owned(),
        false => format!("{}: {}", reason.code, reason.detail),
    }
}

/// Health and why, where it is not simply healthy.
pub(super) fn reason(backend: &BackendStatus) -> String {
    let why = backend.reason.as_ref().map(reason_text);
    let mut parts = Vec::new();
    match (backend.health, why) {
        ("unhealthy", Some(why)) => parts.push(why),
        ("unhealthy", None) => parts.push("unhealthy".into()),
        _ => {}
    }
    if backend.circuit == "half_open" {
        parts.push("under trial".into());
    }
    if backend.asks_to_drain {
        parts.push("the backend asks to be drained".into());
    }
    if backend.capacity < 1.0 {
        parts.push(format!("capacity {}", percent(backend.capacity)));
    }
    if backend.flaps > 1 {
        parts.push(format!("{} changes of late", backend.flaps));
    }
    parts.join(", ")
}

/// How long health has been as it is.
pub(super) fn since(backend: &BackendStatus) -> String {
    format!("{} for {}", backend.health, duration(backend.since.ago))
}

/// What an operator ordered, and how far it is.
pub(super) fn order(backend: &BackendStatus) -> String {
    let left = match backend.in_flight {
        0 => "no request left".into(),
        1 => "1 request left".into(),
        left => format!("{left} requests left"),
    };
    match (backend.mode, &backend.deadline) {
        ("draining", Some(deadline)) if deadline.ahead.is_zero() => {
            format!("{left}, sessions have moved")
        }
        ("draining", Some(deadline)) => {
            format!("{left}, sessions stay {}", duration(deadline.ahead))
        }
        ("maintenance", _) => left,
        _ => String::new(),
    }
}

pub(super) fn check(backend: &BackendStatus) -> String {
    let Some(check) = &backend.last_check else {
        return UNKNOWN.into();
    };
    let outcome = if check.passed { "passed" } else { "failed" };
    format!("{outcome}, {}", check.code)
}

pub(super) fn check_detail(backend: &BackendStatus) -> String {
    let Some(check) = &backend.last_check else {
        return String::new();
    };
    let mut parts = vec![
        format!("{} ago", duration(check.time.ago)),
        millis(check.ms),
    ];
    if !check.detail.is_empty() {
        parts.push(check.detail.clone());
    }
    parts.join(", ")
}

pub(super) fn place(backend: &BackendStatus) -> String {
    let tier = (backend.tier > 0).then(|| format!("tier {}", backend.tier));
    let parts = [tier, backend.locality.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The share of new requests, and the weight in force where it is not the configured one.
pub(super) fn weight_note(backend: &BackendStatus) -> String {
    let (share, in_force) = (percent(backend.share), backend.weight_in_force);
    match in_force > 0.0 && (in_force - f64::from(backend.weight)).abs() > 0.001 {
        true => format!("{share} of new, {} in force", number(in_force)),
        false => format!("{share} of new"),
    }
}

pub(super) fn in_flight(backend: &BackendStatus) -> String {
    match backend.max_in_flight {
        Some(cap) => format!("{} / {cap}", backend.in_flight),
        None => backend.in_flight.to_string(),
    }
}

pub(super) fn quantiles(p50: Option<f64>, p99: Option<f64>) -> String {
    match (p50, p99) {
        (Some(p50), Some(p99)) => format!("{} / {}", millis(p50), millis(p99)),
        _ => UNKNOWN.into(),
    }
}

/// The last point and the highest of the sparkline.
pub(super) fn line_label(backend: &BackendStatus) -> String {
    let known = || backend.latency_ms.iter().flatten().copied();
    let (Some(last), max) = (known().next_back(), known().fold(0.0_f32, f32::max)) else {
        return "no latency yet".into();
    };
    let of = backend.latency_of;
    let (last, max) = (millis(shown(last)), millis(shown(max)));
    format!("latency of {of}: {last} now, {max} at most")
}

/// The value that JSON shows: a hundredth is not exact in binary.
fn shown(value: f32) -> f64 {
    (f64::from(value) * 100.0).round() / 100.0
}

/// The path of the sparkline: a minute across, the highest point at the top.
pub(super) fn line_path(points: &[Option<f32>]) -> String {
    let max = points.iter().flatten().copied().fold(0.0_f32, f32::max);
    let mut path = String::new();
    let mut draws = false;
    let skipped = 60_usize.saturating_sub(points.len());
    for (at, point) in points.iter().enumerate() {
        let Some(point) = point else {
            draws = false;
            continue;
        };
        let height = if max > 0.0 {
            f64::from(point / max)
        } else {
            0.0
        };
        let (x, y) = ((skipped + at) as f64 * 2.0, 24.0 - 22.0 * height);
        let command = if draws { 'L' } else { 'M' };
        path.push_str(&format!("{command}{x:.0} {y:.1}"));
        if !draws {
            // So that a point between gaps shows.
            path.push_str("h0.1");
        }
        draws = true;
    }
    path
}

pub(super) fn change(change: &Change) -> String {
    match change.from {
        Some(from) => format!("{from} → {}", change.to),
        None => change.to.clone(),
    }
}

pub(super) fn change_reason(change: &Change) -> String {
    change.reason.as_ref().map(reason_text).unwrap_or_default()
}

/// Which certificates the table has.
pub(super) fn certificates_note(status: &Status) -> String {
    let certificates = &status.certificates;
    match (certificates.first.len(), certificates.total) {
        (shown, total) if shown < total => format!("the {shown} of {total} that expire first"),
        _ => "the first to expire first".into(),
    }
}

pub(super) fn other_names(certificate: &CertificateStatus) -> String {
    let others = certificate.names.iter().filter(|n| **n != certificate.name);
    let mut names: Vec<_> = others.cloned().collect();
    match certificate.name_count - certificate.names.len() {
        0 => {}
        more => names.push(format!("and {more} more")),
    }
    names.join(", ")
}

pub(super) fn source(certificate: &CertificateStatus) -> String {
    match (certificate.on_demand, &certificate.source) {
        (true, _) => "on demand".into(),
        (false, Some(source)) if *source != certificate.name => source.clone(),
        _ => String::new(),
    }
}

/// How near the end of a certificate is.
pub(super) fn expiry(expiry: &str) -> &'static str {
    match expiry {
        "valid" => "valid",
        "warn" => "expires soon",
        "error" => "expires very soon",
        _ => "expired",
    }
}

pub(super) fn left(certificate: &CertificateStatus) -> String {
    match certificate.is_expired() {
        true => format!("{} ago", duration(certificate.not_after.ago)),
        false => format!("{} left", duration(certificate.not_after.ahead)),
    }
}

/// The date and the time to the minute.
pub(super) fn until(certificate: &CertificateStatus) -> String {
    let time = certificate.not_after.rfc3339();
    let time = time.get(..16).unwrap_or(&time);
    time.replace('T', " ")
}

pub(super) fn serial(certificate: &CertificateStatus) -> String {
    format!("serial {}", certificate.serial)
}

const UNKNOWN: &str = "–";
