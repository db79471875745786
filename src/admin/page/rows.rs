//! The parts of the page that repeat: tiles, rows of backends, and changes.
//!
//! A cell that an update changes has `data-f` with the name that `script.js` knows it by.

use std::fmt::Write;

use super::{
    super::status::{BackendStatus, Status},
    html::Escaped,
    text,
};

/// The columns: the class of their cells, and their title.
const COLUMNS: [(&str, &str); 10] = [
    ("backend", "Backend"),
    ("state", "State"),
    ("check", "Last check"),
    ("number", "Weight"),
    ("number", "In flight"),
    ("number", "Requests/s"),
    ("number", "Errors (5xx)"),
    ("number latency-cell", "Latency p50 / p99"),
    ("number", "Sessions"),
    ("number", "Ejections"),
];

pub(super) fn heads(page: &mut String, writable: bool) {
    for (class, title) in COLUMNS {
        let class = if class.starts_with("number") {
            " class=\"number\""
        } else {
            ""
        };
        put(
            page,
            format_args!("<th role=\"columnheader\" scope=\"col\"{class}>{title}</th>"),
        );
    }
    if writable {
        page.push_str("<th role=\"columnheader\" scope=\"col\">Orders</th>");
    }
}

pub(super) fn tiles(page: &mut String, status: &Status) {
    let (pool, rates) = (&status.pool, &status.pool.rates);
    let supply = match (pool.usable, pool.panic_mode) {
        (0, _) => "bad",
        (_, true) => "bad",
        (usable, _) if usable < pool.backends => "warn",
        _ => "good",
    };
    let of_all = format!("of {}", pool.backends);
    tile(
        page,
        ("usable", supply),
        "Usable",
        &pool.usable.to_string(),
        &of_all,
    );
    tile(
        page,
        ("in_flight", ""),
        "In flight",
        &pool.in_flight.to_string(),
        "",
    );
    let per_second = text::number(rates.requests_per_second);
    tile(
        page,
        ("requests_per_second", ""),
        "Requests/s",
        &per_second,
        "",
    );
    let errors = text::known(rates.error_share, text::percent);
    let is_bad = rates.error_share.is_some_and(|share| share >= MANY_ERRORS);
    tile(
        page,
        ("errors", if is_bad { "bad" } else { "" }),
        "Errors (5xx)",
        &errors,
        "",
    );
    for (name, title, value) in [
        ("p50", "Latency p50", rates.p50_ms),
        ("p99", "Latency p99", rates.p99_ms),
    ] {
        let value = text::known(value, text::millis);
        tile(page, (name, ""), title, &value, "");
    }
    let skew = text::known(pool.sticky_skew, text::number);
    tile(page, ("skew", ""), "Sticky skew", &skew, "");
}

fn tile(page: &mut String, (name, class): (&str, &str), title: &str, value: &str, note: &str) {
    put(
        page,
        format_args!(
            "<div data-tile=\"{name}\" class=\"{class}\"><dt>{title}</dt>\
             <dd><span data-v>{}</span> <small data-n>{}</small></dd></div>",
            Escaped(value),
            Escaped(note)
        ),
    );
}

pub(super) fn backends(page: &mut String, status: &Status) {
    for backend in &status.backends {
        row(page, backend, status.writable);
    }
}

/// The row of no backend, which the script copies for one that joins.
pub(super) fn template(page: &mut String, writable: bool) {
    let cells = Cells::default();
    cells.write(page, ("", "up"), writable);
}

fn row(page: &mut String, backend: &BackendStatus, writable: bool) {
    let weight = backend.weight.to_string();
    let sessions = text::known(backend.sessions, |number| number.to_string());
    let session_note = backend.session_share.map(text::percent);
    let errors = backend.rates.error_share;
    let cells = Cells {
        id: backend.id.clone(),
        address: backend.address.clone(),
        place: text::place(backend),
        state: text::state(backend.state).into(),
        order: text::order(backend),
        reason: text::reason(backend),
        since: text::since(backend),
        check: text::check(backend),
        check_failed: backend
            .last_check
            .as_ref()
            .is_some_and(|check| !check.passed),
        check_detail: text::check_detail(backend),
        weight: weight.clone(),
        weight_note: text::weight_note(backend),
        share: backend.share,
        in_flight: text::in_flight(backend),
        per_second: text::number(backend.rates.requests_per_second),
        requests: format!("{} in all", backend.requests),
        errors: text::known(errors, text::percent),
        hot: errors.is_some_and(|share| share >= MANY_ERRORS),
        quantiles: text::quantiles(backend.rates.p50_ms, backend.rates.p99_ms),
        line: text::line_path(&backend.latency_ms),
        line_label: text::line_label(backend),
        sessions,
        session_note: session_note.unwrap_or_default(),
        session_share: backend.session_share.unwrap_or_default(),
        ejections: backend.ejections.to_string(),
        weight_now: weight,
        mode: backend.mode,
    };
    cells.write(page, (&backend.id, text::class(backend.state)), writable);
}

/// The texts of a row.
#[derive(Default)]
struct Cells {
    id: String,
    address: String,
    place: String,
    state: String,
    order: String,
    reason: String,
    since: String,
    check: String,
    check_failed: bool,
    check_detail: String,
    weight: String,
    weight_note: String,
    share: f64,
    in_flight: String,
    per_second: String,
    requests: String,
    errors: String,
    hot: bool,
    quantiles: String,
    line: String,
    line_label: String,
    sessions: String,
    session_note: String,
    session_share: f64,
    ejections: String,
    weight_now: String,
    mode: &'static str,
}

impl Cells {
    fn write(&self, page: &mut String, (id, class): (&str, &str), writable: bool) {
        let id = Escaped(id);
        put(
            page,
            format_args!("<tr role=\"row\" data-id=\"{id}\" class=\"{class}\">"),
        );
        page.push_str("<th role=\"rowheader\" scope=\"row\">");
        span(page, "id", "id", &self.id);
        span(page, "sub", "address", &self.address);
        span(page, "sub", "place", &self.place);
        page.push_str("</th>");
        self.write_state(page);
        self.write_numbers(page);
        if writable {
            self.orders(page);
        }
        page.push_str("</tr>");
    }

    fn write_state(&self, page: &mut String) {
        begin_cell(page, 1);
        span(page, "badge", "state", &self.state);
        span(page, "sub", "order", &self.order);
        span(page, "sub failed", "reason", &self.reason);
        span(page, "sub", "since", &self.since);
        page.push_str("</td>");
        begin_cell(page, 2);
        let class = if self.check_failed { "failed" } else { "" };
        span(page, class, "check", &self.check);
        span(page, "sub", "check_detail", &self.check_detail);
        page.push_str("</td>");
    }

    fn write_numbers(&self, page: &mut String) {
        begin_cell(page, 3);
        span(page, "", "weight", &self.weight);
        bar(page, "share", self.share);
        span(page, "sub", "weight_note", &self.weight_note);
        page.push_str("</td>");
        begin_cell(page, 4);
        span(page, "", "in_flight", &self.in_flight);
        page.push_str("</td>");
        begin_cell(page, 5);
        span(page, "", "per_second", &self.per_second);
        span(page, "sub", "requests", &self.requests);
        page.push_str("</td>");
        begin_cell(page, 6);
        span(
            page,
            if self.hot { "hot" } else { "" },
            "errors",
            &self.errors,
        );
        page.push_str("</td>");
        begin_cell(page, 7);
        self.latency(page);
        page.push_str("</td>");
        begin_cell(page, 8);
        span(page, "", "sessions", &self.sessions);
        bar(page, "session_share", self.session_share);
        span(page, "sub", "session_note", &self.session_note);
        page.push_str("</td>");
        begin_cell(page, 9);
        span(page, "", "ejections", &self.ejections);
        page.push_str("</td>");
    }

    fn latency(&self, page: &mut String) {
        span(page, "", "quantiles", &self.quantiles);
        put(
            page,
            format_args!(
                "<svg class=\"spark\" data-f=\"line\" viewBox=\"0 0 120 26\" preserveAspectRatio=\"none\" role=\"img\" \
                 aria-label=\"{}\"><path d=\"{}\"/></svg>",
                Escaped(&self.line_label),
                self.line
            ),
        );
    }

    fn orders(&self, page: &mut String) {
        let off = |mode| if self.mode == mode { " disabled" } else { "" };
        put(
            page,
            format_args!(
                "<td role=\"cell\" class=\"actions scripted\">\
                 <button data-action=\"drain\"{}>Drain</button> \
                 <button data-action=\"maintenance\"{}>Maintenance</button> \
                 <button data-action=\"ready\"{}>Ready</button>\
                 <form data-action=\"weight\"><input type=\"number\" min=\"0\" max=\"1000\" required \
                 aria-label=\"Weight of {}\" value=\"{}\"><button>Set weight</button></form></td>",
                off("draining"),
                off("maintenance"),
                off("ready"),
                Escaped(&self.id),
                Escaped(&self.weight_now)
            ),
        );
    }
}

pub(super) fn changes(page: &mut String, status: &Status) {
    if status.changes.is_empty() {
        page.push_str("<li class=\"none\">None yet</li>");
    }
    for change in &status.changes {
        put(
            page,
            format_args!(
                "<li><time datetime=\"{}\">{}</time><span class=\"id\">{}</span>\
                 <span class=\"{}\">{}</span><span class=\"muted\">{}</span></li>",
                change.time.rfc3339(),
                change.time.time_of_day(),
                Escaped(&change.backend),
                Escaped(&change.to),
                Escaped(&text::change(change)),
                Escaped(&text::change_reason(change))
            ),
        );
    }
}

/// Begins a cell of the column with this index.
fn begin_cell(page: &mut String, column: usize) {
    let (class, title) = COLUMNS.get(column).copied().unwrap_or_default();
    put(
        page,
        format_args!("<td role=\"cell\" class=\"{class}\" data-label=\"{title}\">"),
    );
}

fn span(page: &mut String, class: &str, name: &str, text: &str) {
    put(
        page,
        format_args!(
            "<span class=\"{class}\" data-f=\"{name}\">{}</span>",
            Escaped(text)
        ),
    );
}

/// A bar of a share. It says nothing that the text beside it does not.
fn bar(page: &mut String, name: &str, share: f64) {
    put(
        page,
        format_args!(
            "<svg class=\"bar\" data-f=\"{name}\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect width=\"{:.1}\" height=\"4\"/></svg>",
            share.clamp(0.0, 1.0) * 100.0
        ),
    );
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = page.write_fmt(text);
}

/// From here on, a share of errors stands out. The same in `script.js`.
const MANY_ERRORS: f64 = 0.01;
