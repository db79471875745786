#[cfg(all(target_os = "linux", feature = "proxy", feature = "server"))]
mod local_faults;
#[cfg(all(target_os = "linux", feature = "proxy"))]
mod names;

use evenkeel::{Backend, ErrorKind, connect::Connector, pool::Protocol};

use crate::support::{Origin, refused};

#[tokio::test]
async fn a_name_is_looked_up_and_its_addresses_raced() {
    let origin = Origin::named("a").await;
    let url = format!("http://localhost:{}", origin.address.port());
    let backend = Backend::new("a", &url).unwrap();
    let mut stream = Connector::new()
        .connect(&backend)
        .await
        .unwrap()
        .into_stream();
    assert!(
        !stream.is_stale(),
        "an idle connection that is open is fresh"
    );
    drop(origin);
    tokio::time::timeout(std::time::Duration::from_secs(5), async {
        while !stream.is_stale() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a closed connection must be noticed");
}

#[tokio::test]
async fn a_refusal_is_a_connect_error() {
    let backend = Backend::new("a", &format!("http://{}", refused())).unwrap();
    let error = Connector::new().connect(&backend).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.is_connect() && !error.is_after_sending());
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_known_before_a_byte_is_sent() {
    let origin = Origin::named("a").await;
    let backend = Backend::new("a", &origin.url())
        .unwrap()
        .protocol(Protocol::Http2);
    assert!(Connector::new().connect(&backend).await.unwrap().is_http2());
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn cleartext_where_tls_is_expected_is_a_tls_error() {
    let origin = Origin::named("a").await;
    let backend = Backend::new("a", &format!("https://{}", origin.address)).unwrap();
    let error = Connector::new().connect(&backend).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectTls);
}
