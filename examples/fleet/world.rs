//! The network: namespaces around a switch, and what can go wrong with their links.
//!
//! ```text
//! client ─┐           ┌─ rack-1: a b   (eu/eu-1/r1)
//!  lb-1 ──┼─ switch ──┼─ rack-2: c d   (eu/eu-2/r1)
//!  lb-2 ──┤           └─ rack-3: e f   (us/us-1/r1)
//!  store ─┘
//! ```

use std::{
    fs, io,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
};

use evenkeel::BoxError;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::process::try_tool;

/// The hosts: their names, which are also those of their ports at the switch, and their addresses.
const HOSTS: [(&str, &[&str]); 7] = [
    ("client", &[CLIENT]),
    ("lb-1", &["198.18.0.11"]),
    ("lb-2", &["198.18.0.12"]),
    ("rack-1", &["198.18.0.21", "198.18.0.22"]),
    ("rack-2", &["198.18.0.31", "198.18.0.32"]),
    ("rack-3", &["198.18.0.41", "198.18.0.42"]),
    ("store", &[STORE]),
];
const CLIENT: &str = "198.18.0.1";
/// Where the Redis server of the experiments is.
pub(crate) const STORE: &str = "198.18.0.51";
/// The virtual addresses, in addition to the hosts' own.
pub(crate) const VIPS: [&str; 2] = ["198.18.0.100", "198.18.0.101"];
/// The namespace that has nothing but the switch.
const SWITCH: &str = "switch";
/// The name of each host's interface.
pub(crate) const INTERFACE: &str = "eth0";

/// The namespaces of one experiment; removed when dropped.
pub(crate) struct World {
    prefix: String,
}

impl World {
    /// Makes the namespaces and their links. The inner error says what this machine lacks.
    pub(crate) async fn make() -> Result<Result<Self, String>, BoxError> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        for (tool, package) in [
            ("ip", "iproute2"),
            ("nft", "nftables"),
            ("keepalived", "keepalived"),
            ("setpriv", "util-linux"),
            ("sysctl", "procps"),
            ("curl", "curl"),
        ] {
            if let Err(error) = try_tool(tool).await {
                return Ok(Err(format!(
                    "{tool} cannot be run ({error}); it is in the package {package}"
                )));
            }
        }
        remove_leftovers()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let world = Self {
            prefix: format!("{PREFIX}{}-{number}-", std::process::id()),
        };
        if let Err(why) = world.link().await {
            let lacks = [
                "not permitted",
                "not supported",
                "Unknown device type",
                "denied",
            ];
            return match lacks.iter().any(|part| why.contains(part)) {
                true => Ok(Err(format!("no network namespaces can be made: {why}"))),
                false => Err(why.into()),
            };
        }
        let table = "table ip evenkeel_check { chain a { type filter hook prerouting priority 0; \
                     ip daddr 198.18.0.100 socket wildcard 1 dup to 198.18.0.11 device lo; }; }";
        if let Err(why) = world.nft(SWITCH, table).await {
            return Ok(Err(format!(
                "the kernel lacks `socket` or `dup` of nftables: {why}"
            )));
        }
        Ok(Ok(world))
    }

    /// Returns the name of a host's namespace.
    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    async fn link(&self) -> Result<(), String> {
        let switch = self.namespace(SWITCH);
        let mut lines = format!("netns add {switch}\n");
        for (host, _) in HOSTS {
            lines += &format!("netns add {}\n", self.namespace(host));
        }
        batch(None, &lines).await?;
        let mut lines = "link add name bridge0 type bridge\nlink set bridge0 up\n".to_owned();
        for (host, _) in HOSTS {
            let namespace = self.namespace(host);
            lines += &format!(
                "link add name {host} type veth peer name {INTERFACE} netns {namespace}\n\
                 link set {host} master bridge0 up\n"
            );
        }
        batch(Some(&switch), &lines).await?;
        for (host, addresses) in HOSTS {
            let mut lines = format!("link set lo up\nlink set {INTERFACE} up\n");
            for address in addresses {
                lines += &format!("address add {address}/24 dev {INTERFACE}\n");
            }
            batch(Some(&self.namespace(host)), &lines).await?;
        }
        Ok(())
    }

    /// Cuts these hosts off at one moment, as a loss of power does: their links go down.
    pub(crate) async fn power_off(&self, hosts: &[&str]) -> Result<(), BoxError> {
        self.ports(hosts, "down").await
    }

    pub(crate) async fn power_on(&self, hosts: &[&str]) -> Result<(), BoxError> {
        self.ports(hosts, "up").await
    }

    /// Has the switch forward nothing from and to a host, which keeps its carrier: nothing tells it.
    pub(crate) async fn cut_off(&self, host: &str) -> Result<(), BoxError> {
        self.ports(&[host], "nomaster").await
    }

    pub(crate) async fn reconnect(&self, host: &str) -> Result<(), BoxError> {
        self.ports(&[host], "master bridge0").await
    }

    async fn ports(&self, hosts: &[&str], what: &str) -> Result<(), BoxError> {
        let lines: Vec<String> = hosts
            .iter()
            .map(|host| format!("link set {host} {what}\n"))
            .collect();
        Ok(batch(Some(&self.namespace(SWITCH)), &lines.concat()).await?)
    }

    /// Loads rules of nftables at a host.
    pub(crate) async fn nft(&self, host: &str, rules: &str) -> Result<(), String> {
        let mut command = self.command(host, "nft");
        command.args(["-f", "-"]);
        feed(command, rules).await
    }

    /// Returns whether a set of nftables at a host has this element.
    pub(crate) async fn has_element(
        &self,
        host: &str,
        set: &str,
        element: &str,
    ) -> Result<bool, BoxError> {
        let mut command = self.command(host, "nft");
        command.args(["list", "set", "ip", "evenkeel_handoff", set]);
        let listed = command.output().await?;
        Ok(String::from_utf8_lossy(&listed.stdout).contains(element))
    }

    /// Sets a parameter of a host's kernel.
    pub(crate) async fn sysctl(&self, host: &str, setting: &str) -> Result<(), String> {
        let mut command = self.command(host, "sysctl");
        command.args(["-q", "-w", setting]);
        feed(command, "").await
    }

    /// Returns a command that runs a program at a host, and ends it together with this process.
    pub(crate) fn command(&self, host: &str, program: &str) -> Command {
        let mut command = preferred("KILL");
        command.args(["ip", "netns", "exec", &self.namespace(host), program]);
        command
    }
}

/// Returns a command to which a program is to be added. The program goes before the others of this
/// machine, whose load would otherwise be measured, and gets the signal when this process ends.
pub(crate) fn preferred(signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "setsid", "sh", "-c", PREFER, "sh"]);
    command
}

/// Where the kernel shares time among sessions first (`sched_autogroup`), niceness counts within a
/// session only, and the session has one of its own.
const PREFER: &str = "{ echo -15 >/proc/self/autogroup; } 2>/dev/null; exec nice -n -15 \"$@\"";

impl Drop for World {
    fn drop(&mut self) {
        for host in HOSTS.iter().map(|(host, _)| *host).chain([SWITCH]) {
            delete(&self.namespace(host));
        }
    }
}

/// Removes the namespaces and folders of experiments that were killed.
fn remove_leftovers() -> Result<(), BoxError> {
    for name in leftovers("/run/netns")? {
        delete(&name);
    }
    for name in leftovers(RUN)? {
        fs::remove_dir_all(Path::new(RUN).join(name))?;
    }
    Ok(())
}

/// Returns the names in a folder that belong to a process which is no more.
fn leftovers(folder: &str) -> Result<Vec<String>, BoxError> {
    let Ok(entries) = fs::read_dir(folder) else {
        // There were none yet.
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX);
        let owner = owner.and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|id| !fs::exists(format!("/proc/{id}")).unwrap_or(true)) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Makes a folder that is removed when dropped. Not below /tmp: keepalived runs no script where
/// others may write.
pub(crate) fn folder() -> io::Result<TempDir> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(RUN)
}

fn delete(namespace: &str) {
    // Links go with their namespace. What was not made cannot be removed.
    let mut command = std::process::Command::new("ip");
    let command = command
        .args(["netns", "del", namespace])
        .stderr(Stdio::null());
    drop(command.status());
}

/// Runs commands of `ip`, a line each, in one process.
async fn batch(namespace: Option<&str>, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    feed(command, lines).await
}

async fn feed(mut command: Command, input: &str) -> Result<(), String> {
    let run = async {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    match run.await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(format!("{:?}: {}", command.as_std(), why.trim()))
        }
        Err(error) => Err(format!("{:?}: {error}", command.as_std())),
    }
}

/// Where the folders are.
const RUN: &str = "/run";
/// The beginning of the name of each namespace and folder; the id of the process follows.
const PREFIX: &str = "evenkeel-fleet-";
