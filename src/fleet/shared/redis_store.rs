//! [`RedisStore`]: a [`Store`] in Redis.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use redis::{Value, cmd};

use super::{frame, link::Link, redis_url::RedisUrl};
#[cfg(feature = "__tls")]
use crate::connect::ClientTls;
use crate::{
    connect::Connector,
    error::{BoxError, ConfigError},
    store::{MAX_VALUE, Store, StoreFuture, check_key},
};

/// A [`Store`] in Redis 6 or later, or in a server that speaks its protocol, such as Valkey.
///
/// It connects when it is first used, and again after a failure. A clone costs one atomic addition
/// and shares the connection.
///
/// A value stands under `PREFIX:value:KEY` behind a version byte and its length; a value that another
/// program wrote is an error, and stays as it is. A lock stands under `PREFIX:lock:NAME`, and Redis
/// itself ends its lease.
///
/// **Deployment caveat.** Redis copies to replicas later than it answers: a failover to a replica may
/// lose the last writes, and a lock may have two holders for the rest of its lease. Redis Cluster is not
/// supported, but for a cluster of one node.
///
/// **Security.** A reader of this database reads the secrets in it: ticket secrets, and the private
/// keys of certificates. Give the fleet a user of its own, with the keys and channels `PREFIX:*`
/// (`ACL SETUSER balancer on >password ~shop:* &shop:* +@all`), and TLS.
///
/// ```no_run
/// use evenkeel::{fleet::RedisStore, store::Store};
///
/// # async fn run() -> Result<(), evenkeel::BoxError> {
/// let store = RedisStore::new("redis://balancer:password@redis.internal:6379/0")?.prefix("shop")?;
/// store.put("acme/account", b"a key".as_slice().into(), None).await?;
/// assert_eq!(store.get("acme/account").await?.as_deref(), Some(&b"a key"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct RedisStore {
    link: Arc<Link>,
    prefix: Arc<str>,
}

impl RedisStore {
    /// Makes a store in the server of this URL, without connecting: `redis://user:password@host:6379/0`,
    /// `rediss://…` for TLS (feature `tls`), or `unix:///path?db=0&user=…&pass=…`. Port, user, password
    /// and database may be left out. A password is percent-encoded.
    ///
    /// # Errors
    ///
    /// If it is no such URL. The message does not show it.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        let connector = Connector::new();
        #[cfg(feature = "__tls")]
        let connector = connector.tls(ClientTls::new().without_alpn());
        let link = Link::new(RedisUrl::parse(url)?, connector, DEFAULT_TIMEOUT)?;
        Ok(Self {
            link: Arc::new(link),
            prefix: DEFAULT_PREFIX.into(),
        })
    }

    /// Sets the prefix of all keys, so that several fleets can share a database: 1 to 64 of `a`–`z`,
    /// `0`–`9`, `.`, `-` and `_`.
    ///
    /// Default: `evenkeel`.
    ///
    /// # Errors
    ///
    /// If it is no such name.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, ConfigError> {
        check_name("name", prefix)?;
        self.prefix = prefix.into();
        Ok(self)
    }

    /// Sets how long one call may take, from connecting to the answer. The connection is made again.
    ///
    /// Default: 1 s.
    ///
    /// # Errors
    ///
    /// If it is under 10 ms or over 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if !(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&timeout) {
            return Err(ConfigError::new(
                "timeout",
                format!("{timeout:?}: {SHORTEST_TIMEOUT:?} to {LONGEST_TIMEOUT:?} is accepted"),
            ));
        }
        self.link = Arc::new(self.link.with(|connector| connector, timeout)?);
        Ok(self)
    }

    /// Sets the roots and the client certificate of TLS, for a URL that begins with `rediss://`. Its
    /// ALPN protocols are left out.
    ///
    /// Default: [`ClientTls::new`], the roots of Mozilla.
    #[cfg(feature = "__tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        let change = |connector: Connector| connector.tls(tls.without_alpn());
        // The time-out was accepted before.
        if let Ok(link) = self.link.with(change, self.link.timeout()) {
            self.link = Arc::new(link);
        }
        self
    }

    /// Returns the same store with a connection of its own.
    pub(super) fn apart(mut self) -> Self {
        // The time-out was accepted before.
        if let Ok(link) = self.link.with(|connector| connector, self.link.timeout()) {
            self.link = Arc::new(link);
        }
        self
    }

    pub(super) fn configured_prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Returns the key in Redis of what the fleet keeps beside values and locks.
    pub(super) fn own_key(&self, what: &str) -> String {
        format!("{}:{what}", self.prefix)
    }

    fn value_key(&self, key: &str) -> Result<String, BoxError> {
        check_key(key)?;
        Ok(format!("{}:value:{key}", self.prefix))
    }

    fn lock_key(&self, name: &str) -> Result<String, BoxError> {
        check_key(name)?;
        Ok(format!("{}:lock:{name}", self.prefix))
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>, BoxError> {
        match self.link.call(cmd("GET").arg(self.value_key(key)?)).await? {
            Value::Nil => Ok(None),
            Value::BulkString(framed) => match frame::decode(framed) {
                Ok(value) => Ok(Some(value)),
                Err(error) => {
                    let why = format!("the value of {key}: {error}");
                    Err(io::Error::new(io::ErrorKind::InvalidData, why).into())
                }
            },
            _ => Err(format!("the value of {key}: another answer than to GET").into()),
        }
    }

    async fn write(
        &self,
        key: &str,
        value: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<(), BoxError> {
        if value.len() > MAX_VALUE {
            let length = value.len();
            let message = format!("the value of {key}: {length} bytes; {MAX_VALUE} are accepted");
            return Err(message.into());
        }
        let mut command = cmd("SET");
        command.arg(self.value_key(key)?).arg(frame::encode(value));
        if let Some(lifetime) = lifetime {
            command.arg("PX").arg(millis(lifetime));
        }
        self.link.call(&command).await.map(drop)
    }

    async fn script(&self, script: &str, name: &str, arguments: &[&str]) -> Result<bool, BoxError> {
        let mut command = cmd("EVAL");
        command
            .arg(script)
            .arg(1)
            .arg(self.lock_key(name)?)
            .arg(arguments);
        match self.link.call(&command).await? {
            Value::Int(done) => Ok(done == 1),
            _ => Err(format!("the lock {name}: another answer than a number").into()),
        }
    }
}

impl Store for RedisStore {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(self.read(key))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.write(key, &value, lifetime).await })
    }

    fn remove<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let key = self.value_key(key)?;
            self.link.call(cmd("DEL").arg(key)).await.map(drop)
        })
    }

    fn lock<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        lease: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let lease = millis(lease).to_string();
            self.script(LOCK, name, &[holder, &lease]).await
        })
    }

    fn unlock<'a>(&'a self, name: &'a str, holder: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.script(UNLOCK, name, &[holder]).await.map(drop) })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("server", &self.link.shown())
            .field("prefix", &self.prefix)
            .field("timeout", &self.link.timeout())
            .finish()
    }
}

/// Checks the name of a fleet or of an instance: a segment of a key.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), ConfigError> {
    if name.len() <= MAX_NAME && !name.contains('/') && check_key(name).is_ok() {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        format!(
            "{name:?}: 1 to {MAX_NAME} of a-z, 0-9, `.`, `-` and `_`, not beginning with a dot, are \
             accepted"
        ),
    ))
}

/// Redis accepts 1 ms to 292 million years.
fn millis(time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    millis.clamp(1, 1 << 53)
}

/// Takes a lock that is free; extends the lease of one that this holder has. Redis runs a script as one
/// step.
const LOCK: &str = "\
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1";

/// Removes a lock that this holder has.
const UNLOCK: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

/// A server that is near answers within a millisecond; one that is slow must not hold its callers.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const DEFAULT_PREFIX: &str = "evenkeel";
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);
/// As long as a DNS label.
const MAX_NAME: usize = 64;
