//! From the series of this library to the instruments of an OpenTelemetry meter.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use evenkeel::metrics::{Family, Kind, MetricsService, Value, Visitor};
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Meter},
};

/// Observes every series in the callbacks of a meter's instruments.
///
/// | series | instrument |
/// |---|---|
/// | counter | observable counter, with the absolute value |
/// | gauge | observable up-down counter, which Prometheus takes for a gauge. Of an observable gauge the SDK exports the last value for ever, although its backend has left |
/// | histogram | three observable counters, as a meter has no observable histogram: `_bucket` with the upper bounds in `le`, `_count` and `_sum`. `histogram_quantile` of Prometheus takes them |
///
/// Meant for one reader. The SDK keeps 2,000 series of an instrument unless a view says otherwise
/// (`with_cardinality_limit`); a backend's histogram has 17, so that 117 backends reach it.
pub(crate) struct Bridge {
    service: MetricsService,
    meter: Meter,
    last: Mutex<Collected>,
    registered: Mutex<HashSet<String>>,
}

impl Bridge {
    /// Registers an instrument for each family that the service has now.
    pub(crate) fn new(service: MetricsService, meter: Meter) -> Arc<Self> {
        let bridge = Arc::new(Self {
            service,
            meter,
            last: Mutex::default(),
            registered: Mutex::default(),
        });
        bridge.register();
        bridge
    }

    /// Registers instruments for the families that have begun since the last call, such as those of a
    /// source that was added. A callback cannot do it: the SDK holds a lock meanwhile.
    pub(crate) fn register(self: &Arc<Self>) {
        let mut visit = Collected::default();
        self.service.visit(&mut visit);
        for (name, series) in visit.series {
            if lock(&self.registered).insert(name.clone()) {
                self.register_one(name, &series);
            }
        }
    }

    fn register_one(self: &Arc<Self>, name: String, series: &Series) {
        let (meter, help) = (&self.meter, series.help.clone());
        let unit = series.unit;
        let (of, own) = (Observer::new(self, &name), name);
        match series.instrument {
            Instrument::Count => drop(
                meter
                    .u64_observable_counter(own)
                    .with_description(help)
                    .with_unit(unit)
                    .with_callback(move |to| of.observe_counts(to))
                    .build(),
            ),
            Instrument::Sum => drop(
                meter
                    .f64_observable_counter(own)
                    .with_description(help)
                    .with_unit(unit)
                    .with_callback(move |to| of.observe_numbers(to))
                    .build(),
            ),
            Instrument::Gauge => drop(
                meter
                    .f64_observable_up_down_counter(own)
                    .with_description(help)
                    .with_unit(unit)
                    .with_callback(move |to| of.observe_numbers(to))
                    .build(),
            ),
        }
    }
}

/// What the callback of one instrument knows.
struct Observer {
    bridge: Arc<Bridge>,
    name: String,
    /// The visit that it observed last.
    seen: AtomicU64,
}

impl Observer {
    fn new(bridge: &Arc<Bridge>, name: &str) -> Self {
        Self {
            bridge: bridge.clone(),
            name: name.to_owned(),
            seen: AtomicU64::new(0),
        }
    }

    fn observe_counts(&self, to: &dyn AsyncInstrument<u64>) {
        self.each(|labels, reading| {
            if let Reading::Count(count) = reading {
                to.observe(*count, labels);
            }
        });
    }

    fn observe_numbers(&self, to: &dyn AsyncInstrument<f64>) {
        self.each(|labels, reading| {
            if let Reading::Number(number) = reading {
                to.observe(*number, labels);
            }
        });
    }

    /// One visit serves all callbacks of a collection: the callback that has seen the last visit is the
    /// first of the next collection.
    fn each(&self, mut observe: impl FnMut(&[KeyValue], &Reading)) {
        let mut last = lock(&self.bridge.last);
        if self.seen.load(Ordering::Relaxed) == last.visit {
            let visit = last.visit + 1;
            *last = Collected::default();
            last.visit = visit;
            self.bridge.service.visit(&mut *last);
        }
        self.seen.store(last.visit, Ordering::Relaxed);
        if let Some(series) = last.series.get(&self.name) {
            for (labels, reading) in &series.samples {
                observe(labels, reading);
            }
        }
    }
}

/// The series of one visit.
#[derive(Default)]
struct Collected {
    visit: u64,
    series: BTreeMap<String, Series>,
    /// The family that was begun last.
    name: String,
    is_info: bool,
}

struct Series {
    instrument: Instrument,
    help: String,
    unit: &'static str,
    samples: Vec<(Vec<KeyValue>, Reading)>,
}

#[derive(Clone, Copy)]
enum Instrument {
    Count,
    Gauge,
    Sum,
}

enum Reading {
    Count(u64),
    Number(f64),
}

impl Collected {
    fn begin(&mut self, ending: &str, instrument: Instrument, family: &Family<'_>) {
        let series = Series {
            instrument,
            help: family.help.to_owned(),
            // The units of OpenTelemetry are those of UCUM.
            unit: match (instrument, family.unit) {
                (Instrument::Gauge | Instrument::Sum, Some("seconds")) => "s",
                (Instrument::Gauge | Instrument::Sum, Some("bytes")) => "By",
                _ => "",
            },
            samples: Vec::new(),
        };
        self.series.insert(format!("{}{ending}", self.name), series);
    }

    fn add(&mut self, ending: &str, labels: &[KeyValue], reading: Reading) {
        let name = format!("{}{ending}", self.name);
        if let Some(series) = self.series.get_mut(&name) {
            series.samples.push((labels.to_vec(), reading));
        }
    }
}

impl Visitor for Collected {
    fn family(&mut self, family: &Family<'_>) {
        // Without `_total`: that is the ending of a format, which an exporter of that format adds.
        self.name = family.name.to_owned();
        self.is_info = family.kind == Kind::Info;
        match family.kind {
            Kind::Counter => self.begin("", Instrument::Count, family),
            Kind::Info => self.begin("_info", Instrument::Gauge, family),
            Kind::Histogram => {
                self.begin("_bucket", Instrument::Count, family);
                self.begin("_count", Instrument::Count, family);
                self.begin("_sum", Instrument::Sum, family);
            }
            Kind::Summary => {
                self.begin("_count", Instrument::Count, family);
                self.begin("_sum", Instrument::Sum, family);
            }
            // A gauge, and what a later version of the library may add.
            _ => self.begin("", Instrument::Gauge, family),
        }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: &Value<'_>) {
        let own =
            |(name, value): &(&str, &str)| KeyValue::new((*name).to_owned(), (*value).to_owned());
        let labels: Vec<KeyValue> = labels.iter().map(own).collect();
        match value {
            Value::Counter(count) => self.add("", &labels, Reading::Count(*count)),
            Value::Gauge(value) => {
                let ending = if self.is_info { "_info" } else { "" };
                self.add(ending, &labels, Reading::Number(*value));
            }
            Value::Histogram(histogram) => {
                for (bound, count) in histogram.buckets() {
                    let bound =
                        bound.map_or_else(|| "+Inf".to_owned(), |b| b.as_secs_f64().to_string());
                    let labels = [&labels[..], &[KeyValue::new("le", bound)]].concat();
                    self.add("_bucket", &labels, Reading::Count(count));
                }
                self.add("_count", &labels, Reading::Count(histogram.count()));
                let sum = Reading::Number(histogram.sum().as_secs_f64());
                self.add("_sum", &labels, sum);
            }
            Value::Summary { count, sum } => {
                self.add("_count", &labels, Reading::Count(*count));
                self.add("_sum", &labels, Reading::Number(sum.as_secs_f64()));
            }
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
