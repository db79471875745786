//! A balancer: `edge` and keepalived at a host, configured by the files of `examples/deploy/keepalived`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel::BoxError;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    process::{Process, Programs},
    world::{INTERFACE, STORE, VIPS, World, preferred},
};

/// The hosts with a balancer, and their addresses.
pub(crate) const BALANCERS: [(&str, &str); 2] = [("lb-1", "198.18.0.11"), ("lb-2", "198.18.0.12")];
/// The backends: host, id, address and locality.
pub(crate) const BACKENDS: [(&str, &str, &str, &str); 6] = [
    ("rack-1", "a", "198.18.0.21:80", "eu/eu-1/r1"),
    ("rack-1", "b", "198.18.0.22:80", "eu/eu-1/r1"),
    ("rack-2", "c", "198.18.0.31:80", "eu/eu-2/r1"),
    ("rack-2", "d", "198.18.0.32:80", "eu/eu-2/r1"),
    ("rack-3", "e", "198.18.0.41:80", "us/us-1/r1"),
    ("rack-3", "f", "198.18.0.42:80", "us/us-1/r1"),
];

/// How the virtual addresses are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    ActivePassive,
    ActiveActive,
}

/// When a balancer got a virtual address: the moment, which balancer, and the VRRP instance.
pub(crate) type Takeover = (Instant, usize, String);

/// What the settings have beyond those for keepalived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// Each edge by itself.
    No,
    /// `[fleet] redis`: both share the orders of operators.
    Redis,
}

pub(crate) struct Balancer {
    nth: usize,
    settings: PathBuf,
    program: PathBuf,
    pub(crate) edge: Process,
    pub(crate) keepalived: Process,
    configuration: PathBuf,
    takeovers: Arc<Mutex<Vec<Takeover>>>,
}

impl Balancer {
    /// Writes the configuration of the nth balancer into `folder`, and starts it.
    pub(crate) async fn start(
        world: &World,
        programs: &Programs,
        folder: &Path,
        nth: usize,
        (mode, joined): (Mode, Joined),
    ) -> Result<Self, BoxError> {
        let (host, own) = BALANCERS[nth];
        // Answers for the virtual addresses come from the interface that has them, not from `lo`.
        for setting in ["arp_ignore=1", "arp_announce=2"] {
            world
                .sysctl(host, &format!("net.ipv4.conf.all.{setting}"))
                .await?;
        }
        world.nft(host, &handoff()?).await?;
        let check = folder.join("check-edge");
        fs::write(&check, deployed("keepalived/check-edge")?)?;
        fs::set_permissions(&check, fs::Permissions::from_mode(0o755))?;
        let settings = folder.join(format!("{host}.toml"));
        fs::write(&settings, edge_settings(own, folder, host, joined)?)?;
        let configuration = folder.join(format!("{host}.conf"));
        let text = keepalived(nth, mode, &check, &programs.edge, &settings)?;
        fs::write(
            &configuration,
            format!("net_namespace {}\n{text}", world.namespace(host)),
        )?;
        let takeovers = Arc::default();
        Ok(Self {
            nth,
            edge: start_edge(world, host, &programs.edge, &settings).await?,
            keepalived: start_keepalived(nth, &configuration, &takeovers)?,
            program: programs.edge.clone(),
            settings,
            configuration,
            takeovers,
        })
    }

    /// Starts its edge again, after it ended.
    pub(crate) async fn restart_edge(&mut self, world: &World) -> Result<(), BoxError> {
        let host = BALANCERS[self.nth].0;
        self.edge = start_edge(world, host, &self.program, &self.settings).await?;
        Ok(())
    }

    /// Starts another edge, which takes over from the running one, and waits for the end of that.
    pub(crate) async fn upgrade_edge(&mut self, world: &World) -> Result<(), BoxError> {
        let host = BALANCERS[self.nth].0;
        let mut next = start_edge(world, host, &self.program, &self.settings).await?;
        next.line("took over").await?;
        let mut before = std::mem::replace(&mut self.edge, next);
        match before.ended().await? {
            status if status.success() => Ok(()),
            status => Err(format!("the edge before at {host} ended with {status}").into()),
        }
    }

    /// Gives an order for a backend at this balancer, as an operator does.
    pub(crate) async fn order(&self, world: &World, order: &str) -> Result<(), BoxError> {
        let (host, address) = BALANCERS[self.nth];
        let mut command = world.command(host, "curl");
        command
            .args(["-s", "-f", "-m", "5", "-X", "POST", "-H"])
            .arg(format!("Authorization: Bearer {TOKEN}"))
            .arg(format!("http://{address}:9900/backends/{order}"));
        let answer = command.output().await?;
        match answer.status.success() {
            true => Ok(()),
            false => Err(format!("{host}: the order {order} was refused: {answer:?}").into()),
        }
    }

    /// Waits until a backend has this mode at this balancer.
    pub(crate) async fn until_mode(
        &self,
        world: &World,
        id: &str,
        mode: &str,
    ) -> Result<(), BoxError> {
        let (host, address) = BALANCERS[self.nth];
        let agreed = async {
            loop {
                let mut command = world.command(host, "curl");
                command.args([
                    "-s",
                    "-m",
                    "5",
                    &format!("http://{address}:9900/status.json"),
                ]);
                let answer = command.output().await?;
                let status: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
                let mut backends = status["backends"].as_array().into_iter().flatten();
                if backends.any(|backend| backend["id"] == id && backend["mode"] == mode) {
                    return Ok::<_, BoxError>(());
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let agreed = timeout(LONGEST_AGREEMENT, agreed).await;
        agreed.map_err(|elapsed| format!("{host}: {id} is not {mode}: {elapsed}"))?
    }

    pub(crate) fn restart_keepalived(&mut self) -> Result<(), BoxError> {
        self.keepalived = start_keepalived(self.nth, &self.configuration, &self.takeovers)?;
        Ok(())
    }

    /// Returns when this balancer got a virtual address, since `from`.
    pub(crate) fn takeovers(&self, from: Instant) -> Vec<Takeover> {
        let all = lock(&self.takeovers);
        all.iter()
            .filter(|(when, ..)| *when >= from)
            .cloned()
            .collect()
    }

    /// Waits until this balancer got a virtual address, after `from`.
    pub(crate) async fn until_takeover(&self, from: Instant) -> Result<(), BoxError> {
        let taken = async {
            while self.takeovers(from).is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let host = BALANCERS[self.nth].0;
        timeout(LONGEST_TAKEOVER, taken).await.map_err(|elapsed| {
            format!("{host} did not take the address over in {LONGEST_TAKEOVER:?}: {elapsed}")
                .into()
        })
    }
}

impl Joined {
    /// Returns how the section `[fleet]` begins.
    fn section(self) -> String {
        match self {
            Self::No => "[fleet]\n".to_owned(),
            Self::Redis => format!("[fleet]\nredis = \"redis://{STORE}:6379\"\n"),
        }
    }
}

async fn start_edge(
    world: &World,
    host: &str,
    program: &Path,
    settings: &Path,
) -> Result<Process, BoxError> {
    let mut command = world.command(host, &program.display().to_string());
    command.arg(settings);
    let mut edge = Process::start(&format!("edge at {host}"), command)?;
    edge.line("listening on").await?;
    Ok(edge)
}

/// keepalived enters the namespace by itself: the events of processes exist in the first one only.
fn start_keepalived(
    nth: usize,
    configuration: &Path,
    takeovers: &Arc<Mutex<Vec<Takeover>>>,
) -> Result<Process, BoxError> {
    let mut command = preferred("TERM");
    command
        .arg("keepalived")
        .args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"])
        .arg("--use-file")
        .arg(configuration)
        .arg("--pid")
        .arg(configuration.with_extension("pid"))
        .arg("--vrrp_pid")
        .arg(configuration.with_extension("vrrp.pid"));
    if let Some(folder) = configuration.parent() {
        command.env("RUNTIME_DIRECTORY", folder);
    }
    let mut process = Process::start(&format!("keepalived at {}", BALANCERS[nth].0), command)?;
    let lines = process.take_lines();
    let takeovers = takeovers.clone();
    tokio::spawn(async move {
        let Some(mut lines) = lines else { return };
        while let Some(line) = lines.recv().await {
            tracing::debug!(balancer = BALANCERS[nth].0, "{line}");
            let instance = line
                .split_once(": (")
                .and_then(|(_, rest)| rest.split_once(") Entering MASTER"));
            if let Some((instance, _)) = instance {
                lock(&takeovers).push((Instant::now(), nth, instance.to_owned()));
            }
        }
    });
    Ok(process)
}

fn keepalived(
    nth: usize,
    mode: Mode,
    check: &Path,
    edge: &Path,
    settings: &Path,
) -> Result<String, BoxError> {
    let path = |path: &Path| path.display().to_string();
    let mut values = vec![
        ("INTERFACE", INTERFACE.to_owned()),
        ("OWN", BALANCERS[nth].1.to_owned()),
        ("PEER", BALANCERS[1 - nth].1.to_owned()),
        ("CHECK", path(check)),
        ("EDGE", path(edge)),
        ("SETTINGS", path(settings)),
    ];
    let file = match mode {
        Mode::ActivePassive => {
            values.push(("VIP", VIPS[0].to_owned()));
            values.push(("PRIORITY", ["150", "100"][nth].to_owned()));
            "keepalived/active-passive.conf"
        }
        Mode::ActiveActive => {
            values.push(("HOME_VIP", VIPS[nth].to_owned()));
            values.push(("AWAY_VIP", VIPS[1 - nth].to_owned()));
            values.push(("HOME_ID", ["51", "52"][nth].to_owned()));
            values.push(("AWAY_ID", ["51", "52"][1 - nth].to_owned()));
            values.push(("HOME_DELAY", HOME_DELAY.as_secs().to_string()));
            "keepalived/active-active.conf"
        }
    };
    let values: Vec<_> = values
        .iter()
        .map(|(name, value)| (format!("${name}="), value.as_str()))
        .collect();
    set(&deployed(file)?, "$", &values)
}

fn handoff() -> Result<String, BoxError> {
    let vips = format!("{{ {} }}", VIPS.join(", "));
    let interface = format!("{INTERFACE:?}");
    let values = [
        ("define vips = ".to_owned(), vips.as_str()),
        ("define ports = ".to_owned(), "{ 80 }"),
        ("define interface = ".to_owned(), interface.as_str()),
    ];
    set(&deployed("keepalived/handoff.nft")?, "define ", &values)
}

/// Puts values behind the beginnings of lines. Each line that begins with `mark` must get one.
fn set(text: &str, mark: &str, values: &[(String, &str)]) -> Result<String, BoxError> {
    let mut used = 0;
    let lines = text.lines().map(|line| {
        let value = values
            .iter()
            .find(|(begin, _)| line.starts_with(begin.as_str()));
        used += usize::from(value.is_some());
        match value {
            Some((begin, value)) => Ok(format!("{begin}{value}\n")),
            None if line.starts_with(mark) => Err(format!("the experiments set no value: {line}")),
            None => Ok(format!("{line}\n")),
        }
    });
    let text = lines.collect::<Result<String, _>>()?;
    match used == values.len() {
        true => Ok(text),
        false => Err(format!("not every one of {values:?} has a line").into()),
    }
}

/// Puts the backends, the address and the files of the experiments into the settings for keepalived.
fn edge_settings(own: &str, folder: &Path, host: &str, joined: Joined) -> Result<String, BoxError> {
    let text = deployed("keepalived/edge.toml")?;
    let parts = text
        .split_once("[[pool.backends]]")
        .zip(text.split_once("[health]"));
    let Some(((head, _), (_, rest))) = parts else {
        return Err("keepalived/edge.toml must have backends before [health]".into());
    };
    let backends = BACKENDS.map(|(_, id, address, locality)| {
        format!(
            "[[pool.backends]]\nid = {id:?}\nurl = \"http://{address}\"\nlocality = {locality:?}\n"
        )
    });
    let file = |name: &str| folder.join(format!("{host}.{name}"));
    fs::write(file("token"), TOKEN)?;
    let mut text = format!("{head}{}[health]{rest}", backends.concat());
    let values = [
        ("192.0.2.11", own.to_owned()),
        ("<64 hexadecimal digits>", "5a".repeat(32)),
        (
            "/var/log/evenkeel/access.jsonl",
            file("jsonl").display().to_string(),
        ),
        (
            "/etc/evenkeel/admin.token",
            file("token").display().to_string(),
        ),
        ("/run/edge/upgrade.sock", file("sock").display().to_string()),
        ("[fleet]\n", joined.section()),
    ];
    for (example, value) in values {
        if !text.contains(example) {
            return Err(format!("keepalived/edge.toml must have {example}").into());
        }
        text = text.replace(example, &value);
    }
    Ok(text)
}

fn deployed(path: &str) -> Result<String, BoxError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/deploy")
        .join(path);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `[admin] token` of the experiments.
const TOKEN: &str = "a-token-of-the-experiments";
/// How long an order may take to the other balancer; a store that comes back is connected to within 2 s.
const LONGEST_AGREEMENT: Duration = Duration::from_secs(30);
/// How long the experiments wait for the other balancer.
const LONGEST_TAKEOVER: Duration = Duration::from_secs(30);
/// How long a balancer that came back waits before it takes its address home; a minute in production.
pub(crate) const HOME_DELAY: Duration = Duration::from_secs(6);
