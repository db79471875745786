//! The account at an authority: read from the store, else made, once for all instances.

use std::{sync::Arc, time::Duration};

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use tokio::{sync::Mutex, time::sleep};

use super::{
    authority::Authority,
    cleanups::Cleanups,
    client::{Client, failed},
    failure::{OrderError, with_good_nonce},
    lease::Lease,
};
use crate::{error::ConfigError, store::Store};

/// An authority, the client of its directory, and the account there.
pub(super) struct Accounts {
    pub(super) authority: Authority,
    pub(super) client: Client,
    /// The key of the account in the store.
    key: String,
    email: Option<String>,
    /// Held while an account is read or made, so that this process makes one.
    account: Mutex<Option<Account>>,
}

impl Accounts {
    pub(super) fn new(authority: Authority, email: Option<String>) -> Result<Self, ConfigError> {
        Ok(Self {
            client: Client::new(authority.tls.clone())?,
            key: format!("acme/accounts/{}", authority.account_id(email.as_deref())),
            authority,
            email,
            account: Mutex::default(),
        })
    }

    /// Returns the account; another one if the authority does not know that with the URL `unknown` any
    /// more. Of several callers that find out about one account at the same time, the first makes the next.
    pub(super) async fn get(
        &self,
        store: &Arc<dyn Store>,
        cleanups: &Cleanups,
        unknown: Option<&str>,
    ) -> Result<Account, OrderError> {
        let is_known = |account: &Account| Some(account.id()) != unknown;
        let mut cached = self.account.lock().await;
        if let Some(account) = cached.as_ref().filter(|account| is_known(account)) {
            return Ok(account.clone());
        }
        let account = match self.read(store).await?.filter(is_known) {
            Some(account) => account,
            None => self.make_once(store, cleanups, is_known).await?,
        };
        *cached = Some(account.clone());
        Ok(account)
    }

    /// Reads the directory again at the next order. Its URLs may have changed.
    pub(super) async fn forget_directory(&self) {
        *self.account.lock().await = None;
    }

    async fn read(&self, store: &Arc<dyn Store>) -> Result<Option<Account>, OrderError> {
        let Some(bytes) = store.get(&self.key).await.map_err(OrderError::store)? else {
            return Ok(None);
        };
        let Ok(credentials) = serde_json::from_slice::<AccountCredentials>(&bytes) else {
            // The error of serde_json may show a part of the key.
            let why = format!("{}: no account is in it", self.key);
            return Err(OrderError::store(why.into()));
        };
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let account = builder.from_credentials(credentials).await;
        account.map(Some).map_err(failed)
    }

    /// Makes an account, unless another instance makes it at this moment.
    async fn make_once(
        &self,
        store: &Arc<dyn Store>,
        cleanups: &Cleanups,
        is_known: impl Fn(&Account) -> bool,
    ) -> Result<Account, OrderError> {
        for _ in 0..MAX_WAITS {
            let lease = Lease::take(store, cleanups, [self.key.clone()]).await;
            if let Some(lease) = lease.map_err(OrderError::store)? {
                let account = match self.read(store).await {
                    Ok(Some(account)) if is_known(&account) => Ok(account),
                    Ok(_) => self.make(store).await,
                    Err(error) => Err(error),
                };
                lease.release().await;
                return account;
            }
            sleep(WAIT).await;
            if let Some(account) = self.read(store).await?.filter(&is_known) {
                return Ok(account);
            }
        }
        let why = "another instance has been making the account for a minute";
        Err(OrderError::store(why.into()))
    }

    async fn make(&self, store: &Arc<dyn Store>) -> Result<Account, OrderError> {
        let contact = self.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            // `Acme::start` refuses to go on without it.
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let eab = self.authority.external_account.as_ref();
        let eab = eab.map(|eab| ExternalAccountKey::new(eab.key_id.clone(), &eab.key));
        let directory = self.authority.directory().to_owned();
        let builder = || Account::builder_with_http(Box::new(self.client.clone()));
        let made = with_good_nonce!(builder().create(&new, directory.clone(), eab.as_ref()));
        let (account, credentials) = made.map_err(failed)?;
        let bytes = serde_json::to_vec(&credentials);
        let bytes = bytes.map_err(|error| OrderError::store(error.into()))?;
        // An account that cannot be kept would be made again at each start.
        let stored = store.put(&self.key, bytes.into(), None).await;
        stored.map_err(OrderError::store)?;
        tracing::info!(
            target: "evenkeel::tls",
            directory = self.authority.directory(),
            account = account.id(),
            "account made"
        );
        Ok(account)
    }
}

const WAIT: Duration = Duration::from_secs(1);
const MAX_WAITS: u32 = 60;
