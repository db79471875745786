//! From bytes to a [`ProxyHeader`]. Pure: no I/O, no clock.

use std::{borrow::Cow, ffi::OsStr, ops::Range, os::unix::ffi::OsStrExt, path::PathBuf};

use ppp::{v1, v2};

use super::header::{Addresses, ProxyHeader};

/// What the bytes at the beginning of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A header, and its length.
    Header(Box<ProxyHeader>, usize),
    /// The beginning of a header.
    Incomplete,
    /// Not a header: the bytes differ from the signatures of both versions.
    Absent,
    Malformed(Cow<'static, str>),
}

/// Reads a header of at most `max` bytes.
pub(super) fn parse(bytes: &[u8], max: usize) -> Parsed {
    if begins(bytes, V2_SIGNATURE) && !bytes.is_empty() {
        return parse_v2(bytes, max);
    }
    if begins(bytes, V1_SIGNATURE) {
        return parse_v1(bytes);
    }
    Parsed::Absent
}

/// Returns true if the bytes begin with the signature of a version, as far as both reach.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let both = bytes.len().min(signature.len());
    bytes[..both] == signature[..both]
}

/// Returns true if the bytes begin with a whole signature: no request and no ClientHello does.
pub(super) fn has_signature(bytes: &[u8]) -> bool {
    bytes.starts_with(V2_SIGNATURE)
        || [&b"PROXY TCP"[..], b"PROXY UNKNOWN"]
            .iter()
            .any(|v1| bytes.starts_with(v1))
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let line = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return match line.len() == V1_MAX {
            true => malformed("version 1: no line end within 107 bytes"),
            false => Parsed::Incomplete,
        };
    };
    let line = &line[..=end];
    let header = |addresses| {
        let header = ProxyHeader {
            version: 1,
            is_local: false,
            addresses,
            fields: Box::default(),
        };
        Parsed::Header(Box::new(header), line.len())
    };
    // The parser takes at most five words behind UNKNOWN; the protocol takes any.
    if let Some(rest) = line.strip_prefix(b"PROXY UNKNOWN")
        && (rest == b"\r\n" || (rest.starts_with(b" ") && rest.ends_with(b"\r\n")))
    {
        return header(Addresses::Unknown);
    }
    // The parser takes a sign before a port, as the standard library does.
    if line.contains(&b'+') {
        return malformed("version 1: a sign in a number");
    }
    match v1::Header::try_from(line).map(|header| header.addresses) {
        Ok(v1::Addresses::Tcp4(ip)) => header(Addresses::Ip {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        }),
        Ok(v1::Addresses::Tcp6(ip)) => header(Addresses::Ip {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        }),
        Ok(v1::Addresses::Unknown) => header(Addresses::Unknown),
        // The line is whole: what the parser misses does not come.
        Err(error) => malformed(format!("version 1: {error}")),
    }
}

fn parse_v2(bytes: &[u8], max: usize) -> Parsed {
    if let Some(length) = bytes.get(14..16) {
        let whole = V2_HEAD + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if whole > max {
            return malformed(format!("version 2: {whole} bytes, and {max} are accepted"));
        }
    }
    let parsed = match v2::Header::try_from(bytes) {
        Ok(parsed) => parsed,
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => {
            return Parsed::Incomplete;
        }
        Err(error) => return malformed(format!("version 2: {error}")),
    };
    let whole = parsed.as_bytes().len();
    let is_local = parsed.command == v2::Command::Local;
    let mut header = ProxyHeader {
        version: 2,
        is_local,
        addresses: Addresses::Unknown,
        fields: Box::default(),
    };
    // What LOCAL and UNSPEC carry has no meaning, fields included.
    if is_local || parsed.addresses.is_empty() {
        return Parsed::Header(Box::new(header), whole);
    }
    match parsed.protocol {
        v2::Protocol::Stream => header.addresses = addresses(&parsed.addresses),
        v2::Protocol::Datagram => return malformed("version 2: datagrams on a byte stream"),
        v2::Protocol::Unspecified => {}
    }
    let mut at = whole - parsed.tlv_bytes().len();
    for field in parsed.tlvs() {
        let field = match field {
            Ok(field) => field,
            Err(error) => return malformed(format!("version 2: {error}")),
        };
        let value = at + FIELD_HEAD..at + FIELD_HEAD + field.len();
        at = value.end;
        if field.kind == CRC32C && !is_intact(parsed.as_bytes(), value) {
            return malformed("version 2: wrong checksum");
        }
    }
    header.fields = parsed.tlv_bytes().into();
    Parsed::Header(Box::new(header), whole)
}

fn addresses(parsed: &v2::Addresses) -> Addresses {
    match parsed {
        v2::Addresses::IPv4(ip) => Addresses::Ip {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        },
        v2::Addresses::IPv6(ip) => Addresses::Ip {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        },
        v2::Addresses::Unix(unix) => Addresses::Unix {
            source: path(&unix.source),
            destination: path(&unix.destination),
        },
        v2::Addresses::Unspecified => Addresses::Unknown,
    }
}

/// Returns the path up to the first NUL; an abstract name begins with one and keeps it.
fn path(bytes: &[u8; 108]) -> PathBuf {
    let from = usize::from(bytes[0] == 0);
    let name = &bytes[from..];
    let end = name.iter().position(|byte| *byte == 0);
    match end.unwrap_or(name.len()) {
        0 => PathBuf::new(),
        end => PathBuf::from(OsStr::from_bytes(&bytes[..from + end])),
    }
}

/// Returns whether the checksum at `place` is right: the CRC32C of all bytes of the header, where those
/// of the checksum count as zeros.
fn is_intact(header: &[u8], place: Range<usize>) -> bool {
    let Ok(given) = header[place.clone()].try_into().map(u32::from_be_bytes) else {
        return false;
    };
    let bytes = header.iter().enumerate();
    crc32c(bytes.map(|(i, byte)| if place.contains(&i) { 0 } else { *byte })) == given
}

/// A bit at a time: a header has a few hundred bytes, and few have a checksum.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (CASTAGNOLI & (crc & 1).wrapping_neg())
        })
    })
}

fn malformed(detail: impl Into<Cow<'static, str>>) -> Parsed {
    Parsed::Malformed(detail.into())
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// The longest header of version 1, line end included.
pub(super) const V1_MAX: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and protocol, and the length of the rest.
const V2_HEAD: usize = 16;
/// The type and the length of a field.
const FIELD_HEAD: usize = 3;
const CRC32C: u8 = 0x03;
/// The polynomial, reflected.
const CASTAGNOLI: u32 = 0x82f6_3b78;
