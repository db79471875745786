//! What scanners find: sslyze against Mozilla's configurations, and testssl.sh.

use std::time::{SystemTime, UNIX_EPOCH};

use evenkeel::tls::TlsVersion;
use rcgen::{CertificateParams, CrlDistributionPoint, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::Value;

use super::*;

/// The compliance that the module's docs claim. That TLS 1.2 does not pass as `modern` shows that
/// sslyze looks.
#[tokio::test]
async fn sslyze_finds_the_server_compliant() {
    for (least, profile, days, compliant) in [
        (TlsVersion::V1_2, "intermediate", 366, true),
        (TlsVersion::V1_3, "modern", 90, true),
        (TlsVersion::V1_2, "modern", 90, false),
    ] {
        let (authority, certificates) = certificates_for(days);
        let config = TlsConfig::new(certificates).min_version(least);
        let (port, serving) = serve_site(config, Written::default()).await;
        let profile = format!("--mozilla_config={profile}");
        let ca = authority.path().join("ca.pem");
        let ca = format!("--certinfo_ca_file={}", ca.display());
        let target = format!("open.test:{port}{{127.0.0.1}}");
        let Some(seen) = run("sslyze", &[&profile, &ca, &target], b"").await else {
            return;
        };
        serving.abort();
        let is_compliant = seen.contains("OK - Compliant");
        let is_not = seen.contains("FAILED - Not compliant");
        assert_eq!((is_compliant, is_not), (compliant, !compliant), "{seen}");
    }
}

/// Takes some minutes: `cargo test --features full --test it -- --ignored testssl`.
#[tokio::test]
#[ignore = "some minutes long"]
async fn testssl_finds_nothing_above_low() {
    for least in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let (folder, certificates) = certificates_for(90);
        let config = TlsConfig::new(certificates).min_version(least);
        let (port, serving) = serve_site(config, Written::default()).await;
        let findings = folder.path().join("findings.json");
        let ca = folder.path().join("ca.pem");
        let target = format!("https://open.test:{port}");
        let options = [
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "batch",
            "--ip",
            "127.0.0.1",
        ];
        let kinds = ["-p", "-s", "-f", "-P", "-S", "-U", "-c"];
        let mut args = [&options[..], &kinds].concat();
        args.extend(["--add-ca", ca.to_str().unwrap()]);
        args.extend(["--jsonfile", findings.to_str().unwrap(), &target]);
        let Some(seen) = run("testssl", &args, b"").await else {
            return;
        };
        serving.abort();
        let found = std::fs::read(&findings).unwrap_or_else(|error| panic!("{error}: {seen}"));
        let found: Vec<Value> = serde_json::from_slice(&found).unwrap();
        let is_wrong = |finding: &&Value| {
            let harmless = ["OK", "INFO", "LOW"]
                .map(Value::from)
                .contains(&finding["severity"]);
            !harmless && !ACCEPTED.map(Value::from).contains(&finding["id"])
        };
        let wrong: Vec<_> = found.iter().filter(is_wrong).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        // It did find things.
        let offered = |id: &str| found.iter().any(|f| f["id"] == id && f["severity"] == "OK");
        assert!(offered("TLS1_3"), "{found:#?}");
    }
}

/// Certificates as Mozilla wants them, of ECDSA with P-256 and RSA with 2,048 bits, and a folder with
/// `ca.pem`.
fn certificates_for(days: u64) -> (TempDir, Certificates) {
    let authority = Authority::new();
    let change = |params: &mut CertificateParams| {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let hour = Duration::from_secs(3_600);
        let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - hour;
        params.not_before = epoch + begin;
        params.not_after = epoch + begin + 24 * hour * u32::try_from(days).unwrap() - hour;
        params.use_authority_key_identifier_extension = true;
        let uris = vec!["http://authority.test/crl.pem".to_owned()];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
    };
    let kinds = [&PKCS_ECDSA_P256_SHA256, &PKCS_RSA_SHA256];
    let issued = kinds.map(|kind| authority.make(&["open.test"], kind, change));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    (folder, certificates(&issued.each_ref()))
}

/// `cipher_order`: the client's preference decides, as Mozilla recommends where all suites are strong.
const ACCEPTED: [&str; 1] = ["cipher_order"];
