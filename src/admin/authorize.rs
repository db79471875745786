//! What may change the pool: tokens, and an authorizer of the program's own.
//!
//! The order of the questions for one request:
//!
//! | configured | the request has | answer |
//! |---|---|---|
//! | nothing | any | 403 `read_only` |
//! | tokens | one of them | its name |
//! | an authorizer, tokens or none | no known token | what the authorizer says |
//! | tokens alone | another token, or none | 401 |
//!
//! A token that is known is enough, so that scripts work beside a single sign-on. Reading needs no
//! authorization here: where the page must not be public, a layer outside decides about all paths.
//!
//! Tokens are compared as SHA-256 digests, for two reasons: the configured token is kept in no memory,
//! and the time of a comparison says nothing about its bytes, whatever the compiler makes of the loop.

use std::{borrow::Cow, fmt, hint::black_box, sync::Arc};

use http::{header, request::Parts};
use sha2::{Digest, Sha256};

use crate::error::ConfigError;

/// The operator that a request was authorized for. The name stands in the log line of each order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
}

impl User {
    /// Makes a user of a name, such as a login or the common name of a certificate.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why an [authorizer](super::Admin::authorizer) refuses a request. The client gets the reason.
///
/// # Example
///
/// A layer outside has authenticated the operator, and left its result in the request's extensions:
///
/// ```
/// use evenkeel::{Backend, Pool, admin::{Admin, Denied, User}};
/// use http::Request;
/// use http_body_util::Empty;
/// use tower::ServiceExt;
///
/// #[derive(Clone)]
/// struct Login {
///     name: &'static str,
///     is_operator: bool,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let admin = Admin::new(pool).authorizer(|head| match head.extensions.get::<Login>() {
///     Some(login) if login.is_operator => Ok(User::new(login.name)),
///     Some(_) => Err(Denied::forbidden("orders are for operators")),
///     None => Err(Denied::unauthenticated("log in first")),
/// });
///
/// let order = |login: Option<Login>| {
///     let mut order = Request::post("/backends/a/maintenance").body(Empty::<&[u8]>::new());
///     if let (Ok(order), Some(login)) = (&mut order, login) {
///         order.extensions_mut().insert(login);
///     }
///     order
/// };
/// let login = |is_operator| Some(Login { name: "ada", is_operator });
/// assert_eq!(admin.clone().oneshot(order(None)?).await?.status(), 401);
/// assert_eq!(admin.clone().oneshot(order(login(false))?).await?.status(), 403);
/// assert_eq!(admin.oneshot(order(login(true))?).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Denied {
    reason: Cow<'static, str>,
    is_known: bool,
}

impl Denied {
    /// The request has no credentials, or wrong ones: the response is 401 (RFC 9110 §15.5.2).
    pub fn unauthenticated(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            is_known: false,
        }
    }

    /// The user is known and may not do this: the response is 403 (RFC 9110 §15.5.4).
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            is_known: true,
        }
    }
}

/// Why a request may not change the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Forbidden(Cow<'static, str>),
    /// Neither a token nor an authorizer was configured.
    ReadOnly,
    Unauthenticated(Cow<'static, str>),
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied.is_known {
            true => Self::Forbidden(denied.reason),
            false => Self::Unauthenticated(denied.reason),
        }
    }
}

type Authorizer = dyn Fn(&Parts) -> Result<User, Denied> + Send + Sync;

/// The configured tokens and the configured authorizer.
#[derive(Clone, Default)]
pub(super) struct Authorization {
    tokens: Vec<Token>,
    authorizer: Option<Arc<Authorizer>>,
}

#[derive(Clone)]
struct Token {
    name: Arc<str>,
    // The token itself stays in no memory of ours.
    digest: [u8; 32],
}

impl Authorization {
    /// Several tokens may have one name; several names let an operator see in the log which key gave
    /// an order.
    pub(super) fn add_token(&mut self, name: &str, token: &str) -> Result<(), ConfigError> {
        if name.is_empty() {
            let message = "\"\": a name for the log is accepted";
            return Err(ConfigError::new("token.name", message));
        }
        // RFC 6750 §2.1, and nothing that is easily guessed. The message must not show the token.
        let is_allowed = |b: u8| b.is_ascii_graphic();
        if token.len() < MIN_TOKEN_LENGTH || !token.bytes().all(is_allowed) {
            let message = format!(
                "{} bytes: {MIN_TOKEN_LENGTH} or more visible ASCII characters are accepted",
                token.len()
            );
            return Err(ConfigError::new("token", message));
        }
        self.tokens.push(Token {
            name: name.into(),
            digest: Sha256::digest(token).into(),
        });
        Ok(())
    }

    /// A later one replaces it: two would need a rule of which one decides.
    pub(super) fn set_authorizer(&mut self, authorizer: Arc<Authorizer>) {
        self.authorizer = Some(authorizer);
    }

    /// Returns true if no request may change anything.
    pub(super) fn is_read_only(&self) -> bool {
        self.tokens.is_empty() && self.authorizer.is_none()
    }

    /// Returns true if a token can authorize a request.
    pub(super) fn has_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Reads the head alone: the body of a request that is refused is never read. The authorizer is
    /// code of the program and runs on the thread of the request.
    pub(super) fn authorize(&self, head: &Parts) -> Result<User, Refusal> {
        if self.is_read_only() {
            return Err(Refusal::ReadOnly);
        }
        let given = bearer(head);
        if let Some(user) = given.and_then(|token| self.user_of(token)) {
            return Ok(user);
        }
        match (&self.authorizer, given) {
            (Some(authorizer), _) => authorizer(head).map_err(Refusal::from),
            (None, Some(_)) => Err(Refusal::Unauthenticated("the token is not known".into())),
            (None, None) => Err(Refusal::Unauthenticated(
                "a token is needed: authorization: Bearer TOKEN".into(),
            )),
        }
    }

    /// Compares the token with all that are configured, in a time that does not depend on how much of
    /// one it matches.
    fn user_of(&self, given: &str) -> Option<User> {
        let digest: [u8; 32] = Sha256::digest(given).into();
        // No early end: the time must not say which token it was either.
        let mut found = None;
        for token in &self.tokens {
            let pairs = token.digest.iter().zip(&digest);
            let difference = pairs.fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
            if difference == 0 {
                found = Some(User::new(&*token.name));
            }
        }
        found
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.tokens.iter().map(|token| &*token.name).collect();
        f.debug_struct("Authorization")
            .field("tokens", &names)
            .field("authorizer", &self.authorizer.is_some())
            .finish()
    }
}

/// Returns the token of the one `Authorization: Bearer` field (RFC 6750 §2.1).
fn bearer(head: &Parts) -> Option<&str> {
    let mut fields = head.headers.get_all(header::AUTHORIZATION).iter();
    // Of two fields, a proxy in front may have checked the other one.
    let (field, None) = (fields.next()?, fields.next()) else {
        return None;
    };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// 16 random characters of 64 are 96 bits: no network tries so many.
pub(super) const MIN_TOKEN_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(fields: &[&str]) -> Parts {
        let mut request = Request::post("/");
        for field in fields {
            request = request.header(header::AUTHORIZATION, *field);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_a_whole_token_in_one_field_authorizes() {
        let mut tokens = Authorization::default();
        tokens.add_token("ops", "0123456789abcdef").unwrap();
        tokens.add_token("ci", "fedcba9876543210").unwrap();
        let name = |fields: &[&str]| {
            let user = tokens.authorize(&head(fields)).ok();
            user.map(|user| user.name().to_owned())
        };
        for (fields, user) in [
            (vec!["Bearer 0123456789abcdef"], Some("ops")),
            (vec!["bearer  fedcba9876543210"], Some("ci")),
            (vec!["Bearer 0123456789abcde"], None),
            (vec!["Bearer 0123456789abcdef0"], None),
            (vec!["Bearer "], None),
            (vec!["Basic 0123456789abcdef"], None),
            (vec!["0123456789abcdef"], None),
            (vec![], None),
            (vec!["Bearer 0123456789abcdef"; 2], None),
        ] {
            assert_eq!(name(&fields).as_deref(), user, "{fields:?}");
        }
    }

    #[test]
    fn without_a_token_or_an_authorizer_nothing_may_be_changed() {
        let none = Authorization::default();
        let field = ["Bearer 0123456789abcdef"];
        assert_eq!(none.authorize(&head(&field)), Err(Refusal::ReadOnly));
    }

    #[test]
    fn the_authorizer_judges_what_no_token_covers() {
        let mut both = Authorization::default();
        both.add_token("ops", "0123456789abcdef").unwrap();
        both.set_authorizer(Arc::new(|head: &Parts| match head.method.as_str() {
            "POST" => Ok(User::new("anna")),
            _ => Err(Denied::forbidden("POST only")),
        }));
        let of = |head: &Parts| both.authorize(head).map(|user| user.name().to_owned());
        assert_eq!(of(&head(&["Bearer 0123456789abcdef"])), Ok("ops".into()));
        assert_eq!(of(&head(&["Bearer another"])), Ok("anna".into()));
        let (get, ()) = Request::get("/").body(()).unwrap().into_parts();
        assert_eq!(of(&get), Err(Refusal::Forbidden("POST only".into())));
    }

    #[test]
    fn short_tokens_are_refused_and_never_shown() {
        let mut tokens = Authorization::default();
        for bad in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcdé",
        ] {
            let error = tokens.add_token("ops", bad).unwrap_err();
            assert_eq!(error.field(), "token");
            assert!(
                bad.is_empty() || !error.to_string().contains(bad),
                "{error}"
            );
        }
        assert_eq!(
            tokens
                .add_token("", "0123456789abcdef")
                .unwrap_err()
                .field(),
            "token.name"
        );
        tokens.add_token("ops", "0123456789abcdef").unwrap();
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"));
    }
}
