//! The fields that describe the client to the backend, and those that clients forge.

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind,
    context::{ConnInfo, Peer, Selected, TlsInfo, TrustedPeers},
    pool::Protocol,
    proxy::{ForwardedFields, HostField, Proxy},
};
use http::{HeaderName, Method, Request, Response, Uri, Version};
use http_body_util::Full;
use tower::ServiceExt;

use crate::support::{Act, Origin, Scripted};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn request(backend: &Backend, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get("/")
        .header("host", "shop.example")
        .body(Full::default())
        .unwrap();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let extensions = request.extensions_mut();
    extensions.insert(Selected(backend.clone()));
    let peer = Peer::Tcp("192.0.2.9:1234".parse().unwrap());
    extensions.insert(ConnInfo::new(peer, Peer::Unknown));
    request
}

/// Returns the head that the backend got, from the first field on.
async fn sent_head(
    proxy: &Proxy,
    request: impl FnOnce(&Backend) -> Request<Full<Bytes>>,
) -> String {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
    proxy.clone().oneshot(request(&backend)).await.unwrap();
    let head = origin.last_head();
    head.split_once("host: shop.example\r\n")
        .unwrap()
        .1
        .to_owned()
}

#[tokio::test]
async fn cookies_of_http2_become_one_field() {
    let fields = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3")];
    let proxy = Proxy::new().forwarded(ForwardedFields::Off);
    let head = sent_head(&proxy, |backend| {
        let mut request = request(backend, &fields);
        *request.version_mut() = Version::HTTP_2;
        request
    })
    .await;
    assert_eq!(
        head,
        "accept: */*\r\ncookie: a=1; b=2; c=3\r\nvia: 2 evenkeel\r\n\r\n"
    );
}

#[tokio::test]
async fn fields_about_the_client_are_removed_from_untrusted_peers() {
    let forged = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-forwarded_for", "6.6.6.6"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/admin"),
        ("x-forwarded-ssl", "on"),
        ("x-real-ip", "6.6.6.6"),
        ("x_real_ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-forwardedness", "kept"),
    ];
    let head = sent_head(&Proxy::new(), |backend| request(backend, &forged)).await;
    assert_eq!(
        head,
        "x-forwardedness: kept\r\nx-forwarded-for: 192.0.2.9\r\nx-forwarded-proto: http\r\n\
         x-forwarded-host: shop.example\r\nvia: 1.1 evenkeel\r\n\r\n"
    );
}

#[tokio::test]
async fn fields_of_a_trusted_peer_stay_even_if_connection_names_them() {
    let said = [
        (
            "connection",
            "x-forwarded-proto, x-forwarded-for, forwarded, x-hop",
        ),
        ("x-hop", "1"),
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "9.9.9.9"),
        ("forwarded", "for=9.9.9.9"),
    ];
    let trusting = Proxy::new().trusted_peers(TrustedPeers::new(["192.0.2.0/24"]).unwrap());
    let head = sent_head(&trusting, |backend| request(backend, &said)).await;
    assert_eq!(
        head,
        "x-forwarded-proto: https\r\nx-forwarded-port: 443\r\nx-real-ip: 9.9.9.9\r\n\
         forwarded: for=9.9.9.9\r\nx-forwarded-for: 9.9.9.9, 192.0.2.9\r\n\
         x-forwarded-host: shop.example\r\nvia: 1.1 evenkeel\r\n\r\n"
    );
    let silent = trusting.forwarded(ForwardedFields::Off);
    let head = sent_head(&silent, |backend| request(backend, &said)).await;
    assert_eq!(
        head,
        "x-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-forwarded-port: 443\r\n\
         x-real-ip: 9.9.9.9\r\nforwarded: for=9.9.9.9\r\nvia: 1.1 evenkeel\r\n\r\n"
    );
}

#[tokio::test]
async fn an_unknown_connection_adds_no_fields() {
    let proxy = Proxy::new().forwarded(ForwardedFields::Both);
    let head = sent_head(&proxy, |backend| {
        let mut request = request(backend, &[]);
        request.extensions_mut().remove::<ConnInfo>();
        request
    })
    .await;
    assert!(!head.contains("proto"), "{head}");
}

#[tokio::test]
async fn targets_that_belong_to_other_methods_are_refused() {
    let origin = Scripted::play(vec![Act::Send(OK)]).await;
    let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
    for target in ["shop.example", "shop.example:80", "*"] {
        let mut request = request(&backend, &[]);
        *request.uri_mut() = target.parse::<Uri>().unwrap();
        let error = Proxy::new().oneshot(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest, "GET {target}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn options_asterisk_reaches_both_kinds_of_backend() {
    let origin = Origin::serve(|request| async move {
        let authority = request.uri().authority().map(ToString::to_string);
        let host = request.headers().get("host").cloned();
        let host = host.map(|h| h.to_str().unwrap().to_owned());
        let seen = format!("{} {}", request.uri().path(), authority.or(host).unwrap());
        Response::new(Full::from(seen))
    })
    .await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let backend = Backend::new("a", &origin.url()).unwrap().protocol(protocol);
        let mut request = request(&backend, &[]);
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = Uri::from_static("*");
        let response = Proxy::new().oneshot(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body = body.await.unwrap().to_bytes();
        assert_eq!(body, "* shop.example", "{protocol:?}");
    }
}

#[tokio::test]
async fn cached_fields_are_those_of_a_new_connection() {
    let plain = Proxy::new();
    let both = Proxy::new().forwarded(ForwardedFields::Both);
    let to_backend = Proxy::new().host(HostField::Backend);
    let conn = || ConnInfo::new(Peer::Tcp("192.0.2.9:1234".parse().unwrap()), Peer::Unknown);
    let old = conn();
    let forged = ("x-forwarded-for", "6.6.6.6");
    let client = "198.51.100.7:1".parse().unwrap();
    let mut heads = Vec::new();
    for step in 0..12 {
        // The first two are the same, so that what is kept is kept; then each thing differs once.
        let (proxy, host, version) = match step {
            3 => (&plain, "b.example", Version::HTTP_11),
            5 => (&both, "a.example", Version::HTTP_11),
            6 => (&to_backend, "a.example", Version::HTTP_11),
            7 => (&plain, "a.example", Version::HTTP_10),
            8 => (&plain, "", Version::HTTP_10),
            _ => (&plain, "a.example", Version::HTTP_11),
        };
        let new = conn();
        if step >= 9 {
            old.set_tls(TlsInfo::default());
            new.set_tls(TlsInfo::default());
        }
        if step >= 10 {
            old.set_client(client);
            new.set_client(client);
        }
        let origin = Scripted::play(vec![Act::Send(OK), Act::Send(OK)]).await;
        let backend = Backend::new("a", &format!("http://{}", origin.address)).unwrap();
        let mut both_heads = Vec::new();
        for conn in [old.clone(), new] {
            let mut request = request(&backend, &[forged, ("x", "1")]);
            *request.version_mut() = version;
            request.headers_mut().insert("host", host.parse().unwrap());
            request.extensions_mut().insert(conn);
            proxy.clone().oneshot(request).await.unwrap();
            both_heads.push(origin.last_head());
        }
        assert_eq!(both_heads[0], both_heads[1], "request {step}");
        heads.push(both_heads.remove(0));
    }
    assert!(heads[2].contains("x-forwarded-for: 192.0.2.9\r\nx-forwarded-proto: http\r\n"));
    assert!(heads[11].contains("x-forwarded-for: 198.51.100.7\r\nx-forwarded-proto: https\r\n"));
}
