use super::{config, message, start};

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let seconds = |time: std::time::Duration| format!("{} s", time.as_secs());
    let handover = super::Handover::new("/run/a.sock").unwrap();
    assert_eq!(handover.configured_start_timeout(), config::START_TIMEOUT);
    let compared = [
        ("time from a new", seconds(config::START_TIMEOUT)),
        ("time for each answer", seconds(config::ANSWER_TIMEOUT)),
        ("state", format!("{} MiB", message::MAX_MESSAGE >> 20)),
        ("sockets", start::MAX_SOCKETS.to_string()),
    ];
    crate::default_table::compare(include_str!("mod.rs"), &compared);
}
