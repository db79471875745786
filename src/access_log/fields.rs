//! The header fields of a request that a line shows, found in one pass.

use http::{HeaderValue, Request, Uri, header};

use super::{
    RequestId,
    layer::Config,
    request_id::{IdField, REQUEST_ID},
};

/// The header fields of a request that a line shows. Of several with one name, the first counts.
pub(super) struct Fields<'a> {
    pub(super) host: Option<&'a HeaderValue>,
    pub(super) user_agent: Option<&'a HeaderValue>,
    pub(super) referer: Option<&'a HeaderValue>,
    /// The id that a trusted sender gave.
    pub(super) request_id: Option<&'a HeaderValue>,
    /// How many `X-Request-Id` fields there are, trusted or not.
    request_ids: usize,
    /// A line shows only its scheme.
    pub(super) authorization: Option<&'a HeaderValue>,
}

impl<'a> Fields<'a> {
    #[inline(always)]
    pub(super) fn find<B>(config: &Config, request: &'a Request<B>) -> Self {
        let mut fields = Self {
            host: None,
            user_agent: None,
            referer: None,
            request_id: None,
            request_ids: 0,
            authorization: None,
        };
        for (name, value) in request.headers() {
            let field = match *name {
                header::HOST if request.uri().authority().is_none() => &mut fields.host,
                header::USER_AGENT => &mut fields.user_agent,
                header::REFERER if config.referer => &mut fields.referer,
                header::AUTHORIZATION => &mut fields.authorization,
                _ if *name == REQUEST_ID => {
                    fields.request_ids += 1;
                    &mut fields.request_id
                }
                _ => continue,
            };
            field.get_or_insert(value);
        }
        if fields.request_ids > 0 {
            fields.check_request_id(config, request);
        }
        fields
    }

    /// Drops an id that is not trusted, and one of several.
    #[inline(never)]
    fn check_request_id<B>(&mut self, config: &Config, request: &Request<B>) {
        let only = self.request_id.filter(|_| self.request_ids == 1);
        self.request_id = only.filter(|value| config.trust.accepts(value, request));
    }

    /// Returns the id that a trusted sender gave, or else `made`.
    pub(super) fn id(&self, made: u128) -> RequestId<'a> {
        match self.request_id {
            Some(id) => RequestId::Given(id.as_bytes()),
            None => RequestId::Made(made),
        }
    }

    /// Returns what the backend sees of ids; `made` is the request's id where no trusted sender
    /// gave one.
    pub(super) fn id_field(&self, config: &Config, made: u128) -> IdField {
        match (self.request_id, config.pass_request_id) {
            (Some(_), _) => IdField::Keep,
            (None, true) => IdField::Set(made),
            (None, false) if self.request_ids > 0 => IdField::Remove,
            (None, false) => IdField::Keep,
        }
    }
}

/// Returns the query as the log may show it; `None` if queries are not logged.
pub(super) fn redacted_query(config: &Config, uri: &Uri) -> Option<String> {
    let redact = config.query.as_ref()?;
    uri.query().map(|query| redact(query))
}

/// Returns the target that the client sent: axum's `nest` puts it into the extensions before it
/// shortens the target.
pub(super) fn original_uri<B>(request: &Request<B>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    request.uri()
}
