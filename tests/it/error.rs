use evenkeel::{Error, ErrorKind};

#[test]
fn timeouts_say_so() {
    assert!(Error::new(ErrorKind::ConnectTimeout).is_timeout());
    assert!(Error::new(ErrorKind::ConnectTimeout).is_connect());
    assert!(!Error::new(ErrorKind::Connect).is_timeout());
}
