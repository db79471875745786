//! Files that are read again: each fault is logged, and none stops the rest.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use evenkeel::tls::{CertificateWatcher, ClientAuth, ClientRoots};
use tracing_subscriber::layer::SubscriberExt;

use super::{certificates::Errors, *};

/// A file for each certificate, with its chain and its key.
struct Files(tempfile::TempDir);

impl Files {
    fn new(authority: &Authority, names: &[&str]) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        for name in names {
            made.put(name, &authority.issue(&[name]));
        }
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, issued: &Issued) {
        self.put_text(name, &(issued.chain.clone() + &issued.key));
    }

    /// Replaces a file whole: a reading sees the old text or the new one.
    fn put_text(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn certificate(&self, name: &str) -> Certificate {
        Certificate::files(self.path(name), self.path(name))
    }
}

/// Watching, and the errors that it logs on the thread of the test.
struct Watching {
    errors: mpsc::UnboundedReceiver<String>,
    _subscriber: tracing::subscriber::DefaultGuard,
    _watcher: CertificateWatcher,
}

impl Watching {
    fn start(certificates: &Certificates) -> Self {
        let (sender, errors) = mpsc::unbounded_channel();
        let subscriber = tracing_subscriber::registry().with(Errors(sender));
        Self {
            errors,
            _subscriber: tracing::subscriber::set_default(subscriber),
            _watcher: certificates.watch(Duration::from_millis(20)),
        }
    }

    async fn error(&mut self, parts: &[&str]) {
        let error = tokio::time::timeout(PATIENCE, self.errors.recv()).await;
        let error = error.expect("a fault must be logged").unwrap();
        assert!(
            parts.iter().all(|part| error.contains(part)),
            "{parts:?} must be in {error}"
        );
    }
}

#[tokio::test]
async fn a_broken_file_hides_no_later_fault() {
    let authority = Authority::new();
    let files = Files::new(&authority, &["a.test", "b.test", "c.test"]);
    let listed = ["a.test", "b.test"].map(|name| files.certificate(name));
    let all = Certificates::new(listed).unwrap();
    all.insert("third", files.certificate("c.test")).unwrap();
    let roots = files.path("roots.pem");
    files.put_text("roots.pem", &authority.pem());
    let auth = ClientAuth::required(ClientRoots::files([&roots])).unwrap();
    // It reads the roots again together with the certificates.
    let _layer = TlsLayer::new(TlsConfig::new(all.clone()).client_auth(auth));

    let mut watching = Watching::start(&all);
    files.put_text("a.test", "nonsense");
    watching.error(&["certificates[0].chain"]).await;
    files.put_text("b.test", "nonsense");
    watching.error(&["certificates[1].chain"]).await;
    files.put_text("c.test", "nonsense");
    // By its identifier: a number would be that of no list.
    watching.error(&["certificates[", "third", "].chain"]).await;
    files.put_text("roots.pem", "nonsense");
    watching.error(&["client_roots", "roots.pem"]).await;

    // All are still there, and none is logged again; the first error is returned.
    let error = all.reload().unwrap_err();
    assert_eq!(error.field(), "certificates[0].chain");
    for part in ["[0]", "[1]", "third", "client_roots"] {
        watching.error(&[part]).await;
    }
    // One that is mended and broken again is another fault.
    let mended = authority.issue(&["b.test"]);
    files.put("b.test", &mended);
    let serial = |at: usize| all.in_force()[at].fingerprint.clone();
    let before = serial(1);
    let changed = async {
        while serial(1) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    files.put_text("b.test", "nonsense");
    watching.error(&["certificates[1].chain"]).await;
    assert!(watching.errors.try_recv().is_err(), "each once");
}

/// As SIGHUP does it, with the list of the settings as it is now.
#[tokio::test]
async fn a_certificate_that_has_expired_stops_no_reload_of_the_rest() {
    let authority = Authority::new();
    let files = Files::new(&authority, &["old.test", "new.test"]);
    let end = SystemTime::now() + Duration::from_secs(5);
    let since = end.duration_since(UNIX_EPOCH).unwrap();
    let since = Duration::from_secs(since.as_secs());
    let expiring = authority.issue_of(&["old.test"], |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since;
    });
    files.put("old.test", &expiring);
    let all = Certificates::new([files.certificate("old.test")]).unwrap();
    while SystemTime::now() <= UNIX_EPOCH + since {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let both = ["old.test", "new.test"].map(|name| files.certificate(name));
    all.replace(both.clone()).unwrap();
    let names: Vec<_> = all.in_force().iter().map(|c| c.name().to_owned()).collect();
    assert_eq!(names, ["old.test", "new.test"]);

    // Other bytes are checked, and so is a certificate that was not in force.
    files.put(
        "old.test",
        &authority.issue_of(&["old.test"], |params| {
            params.not_after = rcgen::date_time_ymd(2021, 2, 3);
        }),
    );
    let error = all.replace(both.clone()).unwrap_err().to_string();
    assert!(error.contains("expired at 2021-02-03"), "{error}");
    files.put("old.test", &expiring);
    assert!(Certificates::new(both).is_err());
}
