//! The process that the metrics are of: memory and descriptors, as Linux tells them.

use std::fs;

use super::visitor::{Family, Value, Visitor};

/// Visits the gauges of the process. Those that the operating system does not tell are left out: all
/// but on Linux.
pub(super) fn visit(visitor: &mut dyn Visitor) {
    for (family, value) in [
        (RESIDENT_MEMORY, resident_memory()),
        (OPEN_FDS, open_descriptors()),
        (MAX_FDS, max_descriptors()),
    ] {
        if let Some(value) = value {
            visitor.family(&family);
            visitor.sample(&[], &Value::Gauge(value as f64));
        }
    }
}

fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}

fn open_descriptors() -> Option<u64> {
    // Since Linux 6.2 the size of the folder is the number; before, it is 0.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        number => Some(number),
    }
}

fn max_descriptors() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    // Left out where it is "unlimited".
    line.split_whitespace().next()?.parse().ok()
}

const RESIDENT_MEMORY: Family<'_> = Family::gauge(
    "evenkeel_process_resident_memory_bytes",
    "Memory of the process that is in RAM.",
)
.unit("bytes");
const OPEN_FDS: Family<'_> = Family::gauge(
    "evenkeel_process_open_fds",
    "Open file descriptors of the process.",
);
const MAX_FDS: Family<'_> = Family::gauge(
    "evenkeel_process_max_fds",
    "File descriptors that the process may open.",
);
