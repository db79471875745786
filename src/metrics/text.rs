//! The two exposition formats: Prometheus' text format 0.0.4 and OpenMetrics 1.0.
//!
//! They differ in the names of counters and infos in the lines above the samples, in the unit, and in
//! the end. One writer knows both: libraries write one of them, so that the other would need a writer
//! besides.

use std::fmt::Write as _;

use super::visitor::{Family, Kind, Value, Visitor};

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Returns the format that the client prefers (RFC 9110 §12.5.1): OpenMetrics if `accept` names it
    /// with a greater weight than plain text.
    pub(super) fn preferred<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut plain) = (0.0_f32, 0.0_f32);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let (mut weight, mut version) = (1.0, "");
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("q" | "Q", value)) => weight = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = value.trim_matches('"'),
                    _ => {}
                }
            }
            let of_version =
                |supported: &[&str]| version.is_empty() || supported.contains(&version);
            match media {
                "application/openmetrics-text" if of_version(&["1.0.0", "0.0.1"]) => {
                    open = open.max(weight);
                }
                "text/plain" if of_version(&["0.0.4"]) => plain = plain.max(weight),
                "text/*" | "*/*" => plain = plain.max(weight),
                _ => {}
            }
        }
        match open > 0.0 && open >= plain {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }
}

/// Writes series as text.
pub(super) struct TextWriter {
    format: Format,
    text: String,
    /// The family that was begun last.
    name: String,
    kind: Kind,
}

impl TextWriter {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
            name: String::new(),
            kind: Kind::Gauge,
        }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// Writes a line of the family's description.
    fn describe(&mut self, keyword: &str, family: &Family<'_>, value: &str) {
        let Self { text, name, .. } = self;
        text.push_str("# ");
        text.push_str(keyword);
        text.push(' ');
        text.push_str(name);
        if self.format == Format::Prometheus {
            text.push_str(family.ending());
        }
        text.push(' ');
        push_escaped(text, value, self.format == Format::OpenMetrics);
        text.push('\n');
    }

    fn line(&mut self, ending: &str, labels: &[(&str, &str)], more: Option<(&str, &str)>) {
        let Self { text, name, .. } = self;
        text.push_str(name);
        text.push_str(ending);
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(more) {
            text.push(before);
            push_name(text, name);
            text.push_str("=\"");
            push_escaped(text, value, true);
            text.push('"');
            before = ',';
        }
        text.push_str(if before == '{' { " " } else { "} " });
    }

    /// Writes the value, and ends the line.
    fn number(&mut self, value: f64) {
        if value.is_nan() {
            self.text.push_str("NaN\n");
        } else if value.is_infinite() {
            let infinity = if value > 0.0 { "+Inf\n" } else { "-Inf\n" };
            self.text.push_str(infinity);
        } else {
            // Writing into a `String` does not fail.
            let _ = writeln!(self.text, "{value}");
        }
    }

    fn count(&mut self, value: u64) {
        let _ = writeln!(self.text, "{value}");
    }
}

impl Visitor for TextWriter {
    fn family(&mut self, family: &Family<'_>) {
        self.name.clear();
        push_name(&mut self.name, family.name);
        self.kind = family.kind;
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
            Kind::Info if self.format == Format::OpenMetrics => "info",
            Kind::Gauge | Kind::Info => "gauge",
            Kind::Summary => "summary",
        };
        self.describe("HELP", family, family.help);
        self.describe("TYPE", family, kind);
        match (self.format, family.unit) {
            (Format::OpenMetrics, Some(unit)) => self.describe("UNIT", family, unit),
            (Format::OpenMetrics | Format::Prometheus, _) => {}
        }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: &Value<'_>) {
        match *value {
            Value::Counter(count) => {
                self.line("_total", labels, None);
                self.count(count);
            }
            Value::Gauge(value) => {
                let ending = if self.kind == Kind::Info { "_info" } else { "" };
                self.line(ending, labels, None);
                self.number(value);
            }
            Value::Histogram(histogram) => {
                for (bound, count) in histogram.buckets() {
                    // A float in each format: Prometheus from version 3 on makes one of "1", too.
                    let bound = match bound {
                        Some(bound) => format!("{:?}", bound.as_secs_f64()),
                        None => "+Inf".to_owned(),
                    };
                    self.line("_bucket", labels, Some(("le", &bound)));
                    self.count(count);
                }
                self.line("_sum", labels, None);
                self.number(histogram.sum().as_secs_f64());
                self.line("_count", labels, None);
                self.count(histogram.count());
            }
            Value::Summary { count, sum } => {
                self.line("_sum", labels, None);
                self.number(sum.as_secs_f64());
                self.line("_count", labels, None);
                self.count(count);
            }
        }
    }
}

/// Writes the name of a metric or of a label. What a name must not have becomes `_`.
fn push_name(text: &mut String, name: &str) {
    let begins = text.len();
    for c in name.chars() {
        let is_digit = c.is_ascii_digit() && text.len() > begins;
        let fits = c.is_ascii_alphabetic() || c == '_' || is_digit;
        text.push(if fits { c } else { '_' });
    }
}

fn push_escaped(text: &mut String, value: &str, quotes: bool) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(
        format: Format,
        family: &Family<'_>,
        labels: &[(&str, &str)],
        value: &Value<'_>,
    ) -> String {
        let mut writer = TextWriter::new(format);
        writer.family(family);
        writer.sample(labels, value);
        writer.finish()
    }

    #[test]
    fn the_client_chooses_the_format() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            (
                "application/openmetrics-text; version=2.0.0",
                Format::Prometheus,
            ),
            // Prometheus 2.42 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=x", Format::Prometheus),
        ] {
            assert_eq!(Format::preferred([accept].into_iter()), format, "{accept}");
        }
        let two = ["text/plain;q=0.1", "application/openmetrics-text;q=0.2"];
        assert_eq!(Format::preferred(two.into_iter()), Format::OpenMetrics);
    }

    #[test]
    fn a_counter_is_named_as_each_format_wants() {
        let family = Family::counter("a_requests", "Requests.");
        let value = Value::Counter(3);
        assert_eq!(
            written(Format::Prometheus, &family, &[("b", "c")], &value),
            "# HELP a_requests_total Requests.\n# TYPE a_requests_total counter\na_requests_total{b=\"c\"} 3\n"
        );
        assert_eq!(
            written(Format::OpenMetrics, &family, &[], &value),
            "# HELP a_requests Requests.\n# TYPE a_requests counter\na_requests_total 3\n# EOF\n"
        );
    }

    #[test]
    fn an_info_has_a_type_of_its_own_in_open_metrics() {
        let family = Family::info("a_build", "Build.");
        let value = Value::Gauge(1.0);
        assert_eq!(
            written(Format::Prometheus, &family, &[("v", "1")], &value),
            "# HELP a_build_info Build.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n"
        );
        assert_eq!(
            written(Format::OpenMetrics, &family, &[("v", "1")], &value),
            "# HELP a_build Build.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn a_unit_is_declared_in_open_metrics() {
        let family = Family::summary("a_seconds", "Time.").unit("seconds");
        let sum = std::time::Duration::from_millis(1_500);
        let value = Value::Summary { count: 2, sum };
        let text = written(Format::OpenMetrics, &family, &[], &value);
        assert_eq!(
            text,
            "# HELP a_seconds Time.\n# TYPE a_seconds summary\n# UNIT a_seconds seconds\na_seconds_sum 1.5\na_seconds_count 2\n# EOF\n"
        );
    }

    #[test]
    fn labels_are_escaped() {
        let family = Family::gauge("1 ä", "a\\b\n\"c\"");
        let labels = [("ok-1", "a\"b\\c\nd\u{1F600}")];
        assert_eq!(
            written(
                Format::Prometheus,
                &family,
                &labels,
                &Value::Gauge(f64::INFINITY)
            ),
            "# HELP ___ a\\\\b\\n\"c\"\n# TYPE ___ gauge\n___{ok_1=\"a\\\"b\\\\c\\nd\u{1F600}\"} +Inf\n"
        );
    }
}
