//! The paths of the API.
//!
//! Paths are matched as they are, without a leading prefix: a router that nests the service strips it,
//! and the page's links are relative. A trailing slash is another path, and so 404.

use super::{fields::percent_decode, order::Action};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Events,
    Json,
    Metrics,
    Order { id: String, action: Action },
    Status,
}

impl Route {
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix('/')? {
            "status" => Some(Self::Status),
            "status.json" => Some(Self::Json),
            "status/events" => Some(Self::Events),
            "metrics" => Some(Self::Metrics),
            path => {
                let (id, action) = path.strip_prefix("backends/")?.split_once('/')?;
                // An id may have any visible character: a slash in it comes escaped.
                let id = percent_decode(id.as_bytes(), false)?;
                let action = Action::parse(action)?;
                Some(Self::Order { id, action })
            }
        }
    }

    /// Returns the methods that the path has, as `Allow` lists them.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Json | Self::Metrics | Self::Status => "GET, HEAD",
            Self::Events => "GET",
            Self::Order { .. } => "POST",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_exact_and_ids_are_decoded() {
        let order = |id: &str, action| {
            let id = id.into();
            Some(Route::Order { id, action })
        };
        for (path, route) in [
            ("/status", Some(Route::Status)),
            ("/status.json", Some(Route::Json)),
            ("/status/events", Some(Route::Events)),
            ("/metrics", Some(Route::Metrics)),
            ("/backends/a/drain", order("a", Action::Drain)),
            ("/backends/eu%2F1%3F/weight", order("eu/1?", Action::Weight)),
            ("/backends/a+b/ready", order("a+b", Action::Ready)),
            ("/backends/a/b/ready", None),
            ("/backends/a%2/ready", None),
            ("/backends/a/remove", None),
            ("/backends/a", None),
            ("/status/", None),
            ("//status", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }
}
