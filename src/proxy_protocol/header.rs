//! [`ProxyHeader`]: what a balancer in front says about a connection.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str,
};

use crate::{context::ConnInfo, slots::SlotKey};

static KEY: SlotKey<ProxyHeader> = SlotKey::new();

/// The PROXY protocol header of a connection: addresses, and the facts that version 2 adds.
///
/// [`ProxyHeader::of`] returns it for a request's connection. The addresses are in [`ConnInfo`] as well.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    pub(super) version: u8,
    pub(super) is_local: bool,
    pub(super) addresses: Addresses,
    /// The type-length-value fields of version 2, which were checked.
    pub(super) fields: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    Ip {
        source: SocketAddr,
        destination: SocketAddr,
    },
    Unix {
        source: PathBuf,
        destination: PathBuf,
    },
    Unknown,
}

impl ProxyHeader {
    /// Returns the header of this connection; `None` if the connection had none.
    #[must_use]
    pub fn of(conn: &ConnInfo) -> Option<&Self> {
        conn.slots().get(&KEY)
    }

    /// Writes the header to the facts of the connection.
    pub(super) fn record(self, conn: &ConnInfo) {
        if let Addresses::Ip {
            source,
            destination,
        } = self.addresses
        {
            conn.set_client(source);
            conn.set_destination(destination);
        }
        conn.slots().get_or_init(&KEY, || self);
    }

    /// Returns the version: 1 or 2.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Returns true if the balancer opened the connection for itself, as for a health check (the command
    /// LOCAL of version 2). There are no addresses then.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns the address of the client; `None` for LOCAL, UNKNOWN and Unix sockets.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        match self.addresses {
            Addresses::Ip { source, .. } => Some(source),
            Addresses::Unix { .. } | Addresses::Unknown => None,
        }
    }

    /// Returns the address that the client connected to; `None` for LOCAL, UNKNOWN and Unix sockets.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        match self.addresses {
            Addresses::Ip { destination, .. } => Some(destination),
            Addresses::Unix { .. } | Addresses::Unknown => None,
        }
    }

    /// Returns the paths of the client's Unix socket and of the one that it connected to. A socket
    /// without a name has an empty path.
    #[must_use]
    pub fn unix_paths(&self) -> Option<(&Path, &Path)> {
        match &self.addresses {
            Addresses::Unix {
                source,
                destination,
            } => Some((source, destination)),
            Addresses::Ip { .. } | Addresses::Unknown => None,
        }
    }

    /// Returns the fields of version 2 as type and value, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &[u8])> {
        Fields(&self.fields)
    }

    /// Returns the value of the first field of this type.
    #[must_use]
    pub fn field(&self, kind: u8) -> Option<&[u8]> {
        find(&self.fields, kind)
    }

    /// Returns the name that the client asked for, usually its TLS server name (`PP2_TYPE_AUTHORITY`).
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        text(self.field(AUTHORITY))
    }

    /// Returns the protocol that ALPN chose in front, such as `h2` (`PP2_TYPE_ALPN`).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.field(ALPN)
    }

    /// Returns the id that the balancer gave the connection, at most 128 bytes (`PP2_TYPE_UNIQUE_ID`).
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.field(UNIQUE_ID)
    }

    /// Returns the facts of the TLS session in front (`PP2_TYPE_SSL`).
    #[must_use]
    pub fn ssl(&self) -> Option<ProxySsl<'_>> {
        let (client, rest) = self.field(SSL)?.split_first()?;
        let (verify, fields) = rest.split_first_chunk()?;
        Some(ProxySsl {
            client: *client,
            verify: u32::from_be_bytes(*verify),
            fields,
        })
    }

    /// Returns the id of the VPC endpoint, on AWS.
    #[must_use]
    pub fn aws_vpc_endpoint(&self) -> Option<&str> {
        let (subtype, id) = self.field(AWS)?.split_first()?;
        text((*subtype == AWS_VPC_ENDPOINT).then_some(id))
    }

    /// Returns the id of the private endpoint, on Azure (`LINKID`).
    #[must_use]
    pub fn azure_link_id(&self) -> Option<u32> {
        let (subtype, id) = self.field(AZURE)?.split_first()?;
        let id = id.try_into().ok().map(u32::from_le_bytes);
        id.filter(|_| *subtype == AZURE_LINK_ID)
    }

    /// Returns the id of the Private Service Connect connection, on Google Cloud (`pscConnectionId`).
    #[must_use]
    pub fn gcp_psc_connection(&self) -> Option<u64> {
        let id = self.field(GCP)?.try_into().ok()?;
        Some(u64::from_be_bytes(id))
    }
}

impl fmt::Debug for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyHeader")
            .field("version", &self.version)
            .field("is_local", &self.is_local)
            .field("addresses", &self.addresses)
            .field("authority", &self.authority())
            .field("ssl", &self.ssl())
            .finish_non_exhaustive()
    }
}

/// The TLS session between the client and the balancer in front.
#[derive(Clone, Copy)]
pub struct ProxySsl<'a> {
    client: u8,
    verify: u32,
    fields: &'a [u8],
}

impl<'a> ProxySsl<'a> {
    /// Returns true if the client connected over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.client & CLIENT_SSL != 0
    }

    /// Returns true if the client sent a certificate in this session or in the one that it resumes, and
    /// the balancer verified it.
    #[must_use]
    pub fn is_client_verified(&self) -> bool {
        self.client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) != 0 && self.verify == 0
    }

    /// Returns the version, such as `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> Option<&'a str> {
        text(find(self.fields, SSL_VERSION))
    }

    /// Returns the cipher suite, under the name that the balancer's TLS library gives it.
    #[must_use]
    pub fn cipher(&self) -> Option<&'a str> {
        text(find(self.fields, SSL_CIPHER))
    }

    /// Returns the common name of the client's certificate. It counts only if the certificate is
    /// [verified](Self::is_client_verified).
    #[must_use]
    pub fn common_name(&self) -> Option<&'a str> {
        text(find(self.fields, SSL_CN))
    }
}

impl fmt::Debug for ProxySsl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxySsl")
            .field("is_tls", &self.is_tls())
            .field("is_client_verified", &self.is_client_verified())
            .field("version", &self.version())
            .field("cipher", &self.cipher())
            .field("common_name", &self.common_name())
            .finish()
    }
}

/// The fields in these bytes; it ends where they are malformed.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((head[0], value))
    }
}

fn find(fields: &[u8], kind: u8) -> Option<&[u8]> {
    Fields(fields).find(|field| field.0 == kind).map(|f| f.1)
}

fn text(value: Option<&[u8]>) -> Option<&str> {
    str::from_utf8(value?).ok()
}

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
const GCP: u8 = 0xe0;
const AWS: u8 = 0xea;
const AWS_VPC_ENDPOINT: u8 = 0x01;
const AZURE: u8 = 0xee;
const AZURE_LINK_ID: u8 = 0x01;
/// The bits of the first byte of `PP2_TYPE_SSL`.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;
