//! The namespaces, their links and their faults.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Where the edge listens, seen from the client.
pub(super) const EDGE: &str = "198.18.1.2:8080";
/// Two backends, and an address where what comes is dropped.
pub(super) const BACKENDS: [(&str, &str); 3] = [
    ("a", "198.18.2.2"),
    ("b", "198.18.2.3"),
    ("hole", "198.18.2.9"),
];
pub(super) const PORT: u16 = 80;
/// The names' common beginning, for the processes inside.
pub(super) const VARIABLE: &str = "EVENKEEL_TEST_NETWORK";

/// Three namespaces in a row; removed when it is dropped.
pub(super) struct World {
    prefix: String,
}

impl World {
    /// Makes the namespaces, or says what is missing.
    pub(super) fn make() -> Result<Self, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        for tool in ["ip", "nft"] {
            let found = Command::new(tool).arg("-V").output();
            found.map_err(|error| format!("the tool {tool} cannot be run ({error})"))?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let world = Self {
            prefix: format!("ek{}x{number}", std::process::id()),
        };
        let client = world.name("c");
        let made = run(&["ip", "netns", "add", &client]);
        made.map_err(|why| format!("no namespace can be made, CAP_NET_ADMIN is needed ({why})"))?;
        world.link().map_err(|why| {
            let missing = ["not supported", "not permitted", "Unknown device type"];
            assert!(missing.iter().any(|m| why.contains(m)), "{why}");
            format!("no links can be made ({why})")
        })?;
        run(&nft_add(&world.name("c")))
            .map_err(|why| format!("no nftables in a namespace ({why})"))?;
        Ok(world)
    }

    fn name(&self, which: &str) -> String {
        format!("{}{which}", self.prefix)
    }

    fn link(&self) -> Result<(), String> {
        let (c, e, b) = (&self.name("c"), &self.name("e"), &self.name("b"));
        run(&["ip", "netns", "add", e])?;
        run(&["ip", "netns", "add", b])?;
        for (from, to, near, far) in [
            (c, e, "198.18.1.1/24", "198.18.1.2/24"),
            (e, b, "198.18.2.1/24", "198.18.2.2/24"),
        ] {
            // The names inside: where the link leads.
            let there = &format!("to-{}", &to[to.len() - 1..]);
            let back = &format!("to-{}", &from[from.len() - 1..]);
            run(&[
                "ip", "-n", from, "link", "add", "name", there, "type", "veth", "peer", "name",
                back, "netns", to,
            ])?;
            for (namespace, link, address) in [(from, there, near), (to, back, far)] {
                run(&[
                    "ip", "-n", namespace, "address", "add", address, "dev", link,
                ])?;
                run(&["ip", "-n", namespace, "link", "set", link, "up"])?;
                run(&["ip", "-n", namespace, "link", "set", "lo", "up"])?;
            }
        }
        for (_, address) in &BACKENDS[1..] {
            let address = format!("{address}/24");
            run(&["ip", "-n", b, "address", "add", &address, "dev", "to-e"])?;
        }
        Ok(())
    }

    /// Runs a scenario in the client's namespace; it must succeed.
    pub(super) fn play(self, scenario: &str) {
        let output = itself(&self.prefix, "c", &format!("scenarios::{scenario}"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for which in ["c", "e", "b"] {
            // Links go with their namespace; what was not made cannot be removed.
            let _ = run(&["ip", "netns", "del", &self.name(which)]);
        }
    }
}

/// Returns the command that runs one of this binary's ignored tests in a namespace.
pub(super) fn itself(prefix: &str, which: &str, test: &str) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &format!("{prefix}{which}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("network::{test}")])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, prefix);
    command
}

/// Returns the world's prefix in a process that [`itself`] began, else `None`.
pub(super) fn inside() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Puts these rules in place of those before, in the namespace of the edge (`e`) or the backends
/// (`b`); `rules` are chains of a table.
pub(super) fn fault(prefix: &str, which: &str, rules: &str) {
    let name = format!("{prefix}{which}");
    let mut child = Command::new("ip")
        .args(["netns", "exec", &name, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let table = format!("flush ruleset\ntable inet fault {{\n{rules}\n}}\n");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(table.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{table}");
}

/// A chain at a hook with one rule.
pub(super) fn chain(hook: &str, rule: &str) -> String {
    format!("chain {hook} {{\ntype filter hook {hook} priority 0;\n{rule}\n}}\n")
}

/// Says something that no capture of a test's output hides.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn nft_add(namespace: &str) -> [&str; 8] {
    [
        "ip",
        "netns",
        "exec",
        namespace,
        "nft",
        "add",
        "table",
        "inet fault",
    ]
}

fn run(command: &[&str]) -> Result<(), String> {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.map_err(|error| format!("{}: {error}", command.join(" ")))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{}: {why}", command.join(" ")))
}
