//! TLS around an axum listener: certificates by name, a host that asks its clients for certificates, files
//! that are read again when they change, and warnings before a certificate expires. Cleartext is redirected.
//!
//! The example makes its authority and its certificates at the start, in a folder that it names.
//!
//! ```sh
//! cargo run --features tls,axum --example tls
//! cd FOLDER
//! curl --cacert ca.pem --resolve www.test:8443:127.0.0.1 -i https://www.test:8443/
//! curl --cacert ca.pem --resolve api.test:8443:127.0.0.1 https://api.test:8443/    # refused
//! curl --cacert ca.pem --resolve api.test:8443:127.0.0.1 --cert client.pem https://api.test:8443/
//! curl http://127.0.0.1:8443/     # plaintext on the TLS port
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{error::Error, fs, future::IntoFuture, path::Path, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get, serve::ListenerExt};
use evenkeel::{
    context::ConnInfo,
    stats::CertificateRegistry,
    tls::{
        Certificate, Certificates, ClientAuth, ClientRoots, ExpiryWatcher, HostPolicy, HstsLayer,
        HttpsRedirectLayer, MisdirectedLayer, TlsConfig, TlsLayer, TlsVersion,
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::TcpListener;
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let folder = std::env::temp_dir().join("evenkeel-tls");
    make_certificates(&folder)?;
    let file = |name: &str| folder.join(name);

    // The server name of the client chooses the certificate, and the policy.
    let of = |name: &str| Certificate::files(file(name), file(name)).required_names([name]);
    let certificates = Certificates::new([of("www.test"), of("api.test")])?;
    let clients = ClientAuth::required(ClientRoots::files([file("ca.pem")]))?;
    let api = HostPolicy::new()
        .client_auth(clients)
        .min_version(TlsVersion::V1_3);
    let config = TlsConfig::new(certificates.clone()).host("api.test", api)?;

    // Files are read again when they change; the roots of clients with them.
    let _watcher = certificates.watch(Certificates::RELOAD_INTERVAL);
    let registry = CertificateRegistry::new();
    certificates.show_in(&registry, "127.0.0.1:8443");
    let _expiry = ExpiryWatcher::start(&registry, ExpiryWatcher::INTERVAL);

    let app = Router::new().route("/", get(show));
    // A minute is enough for a trial: for that time, a browser that trusts the certificate refuses
    // cleartext on every port of the host.
    let hsts = HstsLayer::new().max_age(Duration::from_secs(60));
    // Outermost, so that a connection for one host serves no request for the other.
    let secure = app.clone().layer(hsts).layer(MisdirectedLayer::new());
    let listener = TcpListener::bind("127.0.0.1:8443").await?.tap_io(|io| {
        // An error means that the socket is closed, which the handshake reports.
        let _ = io.set_nodelay(true);
    });
    let secure = axum::serve(
        TlsLayer::new(config).layer(listener),
        secure.into_make_service_with_connect_info::<ConnInfo>(),
    );

    let redirect = app.layer(HttpsRedirectLayer::new().port(8443));
    let redirect = axum::serve(
        TcpListener::bind("127.0.0.1:8080").await?,
        redirect.into_make_service_with_connect_info::<ConnInfo>(),
    );
    println!("https://127.0.0.1:8443/ and http://127.0.0.1:8080/, which redirects");
    println!("certificates in {}", folder.display());
    tokio::try_join!(secure.into_future(), redirect.into_future())?;
    Ok(())
}

async fn show(ConnectInfo(conn): ConnectInfo<ConnInfo>) -> String {
    format!("{:#?}\n", conn.tls())
}

/// Makes an authority, a certificate for each host, and one for a client. Each file has chain and key.
fn make_certificates(folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let mut params = CertificateParams::new([])?;
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "an authority for a trial");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(folder.join("ca.pem"), authority.as_ref().pem())?;
    for (file, name) in [
        ("www.test", "www.test"),
        ("api.test", "api.test"),
        ("client.pem", "client.test"),
    ] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let issued = params.signed_by(&key, &authority)?;
        fs::write(folder.join(file), issued.pem() + &key.serialize_pem())?;
    }
    Ok(())
}
