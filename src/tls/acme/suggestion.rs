//! When the authority suggests to renew a certificate (RFC 9773).

use std::time::{Duration, SystemTime};

use instant_acme::{CertificateIdentifier, Error, RenewalInfo};
use tokio::time::timeout;

use super::{
    account::Accounts,
    current::Current,
    manager::Managed,
    renewal::{Window, suggestion_lifetime},
    stored::{self, StoredSuggestion},
};
use crate::connect::x509::utc;

impl Managed {
    /// Asks the authority when to renew (RFC 9773 §4), unless it was asked a short time ago, here or at
    /// another instance.
    pub(super) async fn ask_for_suggestion(&mut self) {
        let Some((id, name)) = self.current.as_ref().and_then(Current::identifier) else {
            return;
        };
        let now = SystemTime::now();
        let is_fresh = |suggestion: &StoredSuggestion| suggestion.ask_again() > now;
        // Of another certificate, it says nothing.
        self.suggestion.take_if(|s| s.certificate != name);
        if self.suggestion.as_ref().is_some_and(is_fresh) {
            return;
        }
        let shared = self.shared.clone();
        let issuer = self.current.as_ref().map(|c| c.stored.directory.clone());
        let mut accounts = shared.accounts.iter();
        let accounts = accounts.find(|a| Some(a.authority.directory()) == issuer.as_deref());
        let Some(accounts) = accounts else { return };
        let key = self.key("suggestions", accounts.authority.directory());
        let found: Result<Option<StoredSuggestion>, _> = self.read(&key).await;
        let found = found.ok().flatten().filter(|s| s.certificate == name);
        if let Some(found) = found.filter(is_fresh) {
            self.suggestion = Some(found);
            return;
        }
        // The permit is not waited for longer than the store is left alone: the next step asks.
        let permit = timeout(shared.poll_interval, shared.suggestion_permits.acquire()).await;
        let Ok(_permit) = permit else { return };
        let previous = self.suggestion.as_ref().and_then(StoredSuggestion::window);
        let (window, asks_again_in) = match self.ask(accounts, &id).await {
            Ok((info, retry_after)) => (Some(self.suggested(&info, previous)), Some(retry_after)),
            Err(Error::Unsupported(_)) => (None, None),
            Err(error) => {
                let names = &self.names;
                tracing::debug!(target: "evenkeel::tls", %names, %error, "no suggestion of the authority");
                (previous, None)
            }
        };
        let again = now + suggestion_lifetime(asks_again_in, fastrand::f64());
        let suggestion = StoredSuggestion::new(name, window, again);
        // If it cannot be written, another instance asks for itself.
        let _ = stored::write(&**self.store(), &key, &suggestion, None).await;
        self.suggestion = Some(suggestion);
    }

    async fn ask(
        &self,
        accounts: &Accounts,
        id: &CertificateIdentifier<'static>,
    ) -> Result<(RenewalInfo, Duration), Error> {
        let account = accounts
            .get(self.store(), &self.shared.orders.cleanups, None)
            .await;
        let account = account.map_err(|error| Error::Other(error.to_string().into()))?;
        account.renewal_info(id).await
    }

    /// Returns the window, and logs it if it is another one.
    fn suggested(&self, info: &RenewalInfo, previous: Option<Window>) -> Window {
        let window = Window {
            start: info.suggested_window.start.into(),
            end: info.suggested_window.end.into(),
        };
        if previous != Some(window) {
            let (names, start, end) = (&self.names, utc(window.start), utc(window.end));
            let why = info.explanation_url.as_deref().unwrap_or_default();
            tracing::info!(target: "evenkeel::tls", %names, start, end, why, "the authority suggests a time of renewal");
        }
        window
    }
}
