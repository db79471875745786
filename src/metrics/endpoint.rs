//! [`MetricsService`]: answers with all series.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tower_service::Service;

use super::{
    certificate_series, series,
    text::{Format, TextWriter},
    visitor::Visitor,
};
use crate::stats::Stats;

/// Answers GET and HEAD with all series, and other methods with 405.
///
/// The format is Prometheus' text format 0.0.4, or OpenMetrics 1.0 for a client whose `Accept` prefers
/// it. The service answers at any path: mount it at `/metrics`, and only where clients from outside do
/// not reach it, as the numbers tell of the backends.
#[derive(Clone)]
#[must_use]
pub struct MetricsService {
    stats: Stats,
    sources: Vec<Source>,
}

/// Visits series of another part of the program.
type Source = Arc<dyn Fn(&mut dyn Visitor) + Send + Sync>;

impl MetricsService {
    /// Makes a service that answers with the series of `stats`.
    pub fn new(stats: Stats) -> Self {
        Self {
            stats,
            sources: Vec::new(),
        }
    }

    /// Adds series of another part of the program: `source` is called for each scrape, on the task of
    /// the request. It must not block, and must not begin a family that is there already.
    ///
    /// # Example
    ///
    /// The lines that a log wrote and dropped:
    ///
    /// ```
    /// use evenkeel::{Pool, metrics::{Family, MetricsService, Value}, stats::Stats};
    ///
    /// # fn main() -> Result<(), evenkeel::ConfigError> {
    /// # let (written, dropped) = (7, 1);
    /// let stats = Stats::new(Pool::new([])?);
    /// let service = MetricsService::new(stats).source(move |visitor| {
    ///     visitor.family(&Family::counter("evenkeel_log_lines", "Lines of the access log."));
    ///     visitor.sample(&[("result", "written")], &Value::Counter(written));
    ///     visitor.sample(&[("result", "dropped")], &Value::Counter(dropped));
    /// });
    /// assert!(service.text().contains("evenkeel_log_lines_total{result=\"dropped\"} 1\n"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn source(mut self, source: impl Fn(&mut dyn Visitor) + Send + Sync + 'static) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Returns where the numbers are.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Visits all series as they are now, those of the [sources](Self::source) included. A bridge to
    /// another library of metrics is a [`Visitor`].
    pub fn visit(&self, visitor: &mut dyn Visitor) {
        series::visit(&self.stats.snapshot(), visitor);
        certificate_series::visit(&self.stats.certificates().read(), visitor);
        self.sources.iter().for_each(|source| source(visitor));
    }

    /// Returns all series as they are now, in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        self.write(Format::Prometheus)
    }

    /// Returns all series as they are now, in OpenMetrics 1.0.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        self.write(Format::OpenMetrics)
    }

    fn write(&self, format: Format) -> String {
        let mut writer = TextWriter::new(format);
        self.visit(&mut writer);
        writer.finish()
    }

    fn respond<B>(&self, request: &Request<B>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        let accept = request.headers().get_all(header::ACCEPT);
        let format = Format::preferred(accept.iter().filter_map(|value| value.to_str().ok()));
        let text = Bytes::from(self.write(format));
        let length = HeaderValue::from(text.len());
        let text = if request.method() == Method::HEAD {
            Bytes::new()
        } else {
            text
        };
        let mut response = Response::new(Body { text });
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(format.content_type());
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        response
    }
}

impl<B> Service<Request<B>> for MetricsService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.respond(&request)))
    }
}

impl fmt::Debug for MetricsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsService")
            .field("stats", &self.stats)
            .field("sources", &self.sources.len())
            .finish()
    }
}

/// The body of a response of [`MetricsService`].
#[derive(Clone, Debug, Default)]
pub struct Body {
    text: Bytes,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = std::mem::take(&mut self.get_mut().text);
        Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::MetricsLayer, pool::Pool};

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let stats = Stats::new(Pool::new([]).unwrap());
        let layer = format!("{:?}", MetricsLayer::new(stats));
        let by_address = layer.contains("listener: None");
        let version = |format: Format| {
            let (_, version) = format.content_type().split_once("version=").unwrap();
            version.split(';').next().unwrap().trim_end_matches(".0")
        };
        let format = Format::preferred([].into_iter());
        let name = match format {
            Format::OpenMetrics => "OpenMetrics",
            Format::Prometheus => "Prometheus",
        };
        let compared = [
            (
                "name of the listener",
                match by_address {
                    true => "the address that it is bound to",
                    false => "a name",
                }
                .to_owned(),
            ),
            ("format", name.to_owned()),
            ("format", version(format).to_owned()),
            ("format", version(Format::OpenMetrics).to_owned()),
        ];
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
