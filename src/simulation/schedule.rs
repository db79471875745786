//! What will happen, drawn from a seed.

use fastrand::Rng;

/// One life: settings, the first members, and what happens when.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) settings: Settings,
    pub(super) members: Vec<Spec>,
    /// In the order of time.
    pub(super) steps: Vec<(u64, Step)>,
    /// Whether all is made well in the end, and must come back.
    pub(super) heals: bool,
}

/// Times in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) interval: u64,
    pub(super) changing: u64,
    pub(super) timeout: u64,
    pub(super) rise: u32,
    pub(super) fall: u32,
    pub(super) jitter: f64,
    pub(super) consecutive: u32,
    pub(super) ejection: u64,
    pub(super) max_share: f64,
    pub(super) strategy: u8,
    pub(super) attempts: u32,
    /// A second attempt begins after this time.
    pub(super) hedge: Option<u64>,
    /// What a request earns for retries, and what a second does; in thousandths of one.
    pub(super) budget: (u64, u64),
    pub(super) queue_size: usize,
    pub(super) queue_timeout: u64,
    pub(super) connect_timeout: u64,
    pub(super) head_timeout: u64,
    /// Checks are a prober's, which may be stopped and started; else the layer's.
    pub(super) prober_apart: bool,
    /// Balance tells what is below in the call, as in the canonical stack; else by a note.
    pub(super) direct: bool,
    /// All clients call one service, which remembers what it found; else each has a clone.
    pub(super) one_service: bool,
}

/// A backend as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) id: u8,
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) tier: u8,
    pub(super) cap: Option<u32>,
}

/// How what listens at a port behaves; checks and traffic apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    pub(super) check: Check,
    pub(super) traffic: Traffic,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    Pass(u64),
    Fail(u64),
    Hang,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Traffic {
    /// Answers after this time.
    Ok(u64),
    /// The backend refuses connections.
    Refuse,
    /// No answer to a connection.
    BlackHole,
    /// A connection, and no answer.
    Hang,
    /// 503 after this time.
    Unavailable(u64),
    /// 500 after this time: the application's own.
    Error(u64),
    /// Closes before an answer.
    Reset(u64),
    /// Begins an answer that breaks off.
    Break(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Behave(u16, Behaviour),
    Upsert(Spec),
    /// To another address and back, before a check or a request notices.
    ThereAndBack(Spec, u16),
    Remove(u8),
    /// Removed and added in one breath.
    ReAdd(Spec),
    Replace(Vec<Spec>),
    Drain(u8, u64),
    Maintenance(u8),
    Ready(u8),
    StopChecks,
    StartChecks,
    /// Stopped and started in one breath; of a layer, all clients are lost with it.
    RestartChecks,
    /// The runtime ends, and all that runs in it; pool and layers go on in another.
    NewRuntime,
    Request(Plan),
}

/// What one client does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) post: bool,
    pub(super) upload: Upload,
    /// Hangs up after this time, whatever it waits for.
    pub(super) timeout: Option<u64>,
    /// Frames of the answer, and the time before each.
    pub(super) frames: u32,
    pub(super) pace: u64,
    /// Has a cookie for this backend.
    pub(super) sticky: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Upload {
    None,
    Whole,
    /// The client's side fails in the middle.
    Breaks,
}

pub(super) const FIRST_PORT: u16 = 9_000;
/// More addresses than ids, so that there is where to move to.
pub(super) const PORTS: u16 = 9;
const IDS: u8 = 6;

impl Schedule {
    pub(super) fn draw(seed: u64) -> Self {
        Draw {
            rng: Rng::with_seed(seed),
            now: 0,
            steps: Vec::new(),
            members: Vec::new(),
        }
        .schedule(seed)
    }
}

impl Schedule {
    /// Ends the runtime wherever checks would be restarted. Each has a clock of its own, and two
    /// clocks' milliseconds do not begin together: such a life is not the same every time.
    pub(super) fn across_runtimes(mut self) -> Self {
        for (_, step) in &mut self.steps {
            if matches!(step, Step::RestartChecks) {
                *step = Step::NewRuntime;
            }
        }
        self
    }
}

/// A schedule in the making.
struct Draw {
    rng: Rng,
    now: u64,
    steps: Vec<(u64, Step)>,
    /// As they will be at `now`.
    members: Vec<Spec>,
}

impl Draw {
    fn schedule(mut self, seed: u64) -> Schedule {
        let settings = self.settings(seed);
        let count = self.rng.u8(2..=5);
        self.members = (0..count).map(|id| self.spec(id)).collect();
        let members = self.members.clone();
        let length = self.rng.u64(4_000..=16_000);
        // A quiet life, or one with much trouble.
        let troubles = self.rng.u32(2..=9);
        let mut moments: Vec<_> = (0..troubles).map(|_| self.rng.u64(0..length)).collect();
        moments.sort_unstable();
        for moment in moments {
            // Requests around each event, so that its effects are seen.
            if self.rng.u8(..) < 110 {
                self.traffic(moment);
            }
            // Often several at one moment: a rack, or an operator in haste.
            self.now = moment;
            for _ in 0..self.rng.choice([1, 1, 1, 2, 3]).unwrap_or(1) {
                self.trouble(&settings);
            }
        }
        // Stable: what was drawn first happens first.
        self.steps.sort_by_key(|(at, _)| *at);
        Schedule {
            seed,
            heals: self.rng.u8(..) < 64,
            settings: Settings {
                budget: budget(&mut self.rng),
                ..settings
            },
            members,
            steps: self.steps,
        }
    }

    fn settings(&mut self, seed: u64) -> Settings {
        let rng = &mut self.rng;
        let interval = rng.u64(400..=2_000);
        Settings {
            interval,
            changing: rng.u64(100..=interval),
            timeout: rng.u64(80..=interval - 100),
            rise: rng.u32(1..=3),
            fall: rng.u32(1..=3),
            jitter: f64::from(rng.u8(0..=20)) / 100.0,
            consecutive: rng.u32(1..=5),
            ejection: rng.u64(1_000..=10_000),
            max_share: f64::from(rng.u8(3..=10)) / 10.0,
            strategy: rng.u8(0..4),
            attempts: rng.u32(1..=3),
            hedge: rng.bool().then(|| rng.u64(10..=200)),
            // Drawn in the end, so that a seed's other draws stay as they are.
            budget: BUDGET,
            queue_size: rng.usize(0..=40),
            queue_timeout: rng.u64(200..=3_000),
            connect_timeout: rng.u64(300..=1_000),
            head_timeout: rng.u64(500..=3_000),
            prober_apart: rng.bool(),
            // Not drawn, so that the other draws stay as they are.
            direct: seed % 2 == 1,
            one_service: seed / 2 % 2 == 1,
        }
    }

    fn spec(&mut self, id: u8) -> Spec {
        let rng = &mut self.rng;
        Spec {
            id,
            port: FIRST_PORT + u16::from(id),
            weight: rng.choice([1, 1, 1, 2, 5, 0]).unwrap_or(1),
            tier: u8::from(rng.u8(..) < 40),
            cap: rng
                .choice([None, None, Some(1), Some(2), Some(5)])
                .flatten(),
        }
    }

    /// A run of requests from about this moment on.
    fn traffic(&mut self, around: u64) {
        let pace = self.rng.choice([1, 5, 20, 60, 150]).unwrap_or(20);
        let mut at = around.saturating_sub(self.rng.u64(0..=5 * pace));
        for _ in 0..self.rng.u32(4..=20) {
            at += self.rng.u64(0..=2 * pace);
            let plan = self.plan();
            self.steps.push((at, Step::Request(plan)));
        }
    }

    fn plan(&mut self) -> Plan {
        let rng = &mut self.rng;
        let post = rng.u8(..) < 60;
        Plan {
            post,
            upload: match rng.u8(0..12) {
                0 => Upload::Breaks,
                1..=3 => Upload::Whole,
                _ if post => Upload::Whole,
                _ => Upload::None,
            },
            timeout: (rng.u8(..) < 70).then(|| rng.u64(0..=1_200)),
            frames: rng.choice([0, 0, 1, 3]).unwrap_or(0),
            pace: rng.choice([0, 5, 100]).unwrap_or(0),
            sticky: (rng.u8(..) < 40).then(|| rng.u8(0..IDS)),
        }
    }

    fn push(&mut self, step: Step) {
        self.steps.push((self.now, step));
    }

    fn member(&mut self) -> Option<usize> {
        (!self.members.is_empty()).then(|| self.rng.usize(0..self.members.len()))
    }

    fn port(&mut self) -> u16 {
        FIRST_PORT + self.rng.u16(0..PORTS)
    }

    fn trouble(&mut self, settings: &Settings) {
        match self.rng.u8(0..20) {
            0..=4 => self.phase(settings),
            5 => self.flap(settings),
            6 => self.all(settings),
            7..=8 => self.join_or_change(),
            9..=10 => self.readdress(),
            11 => self.leave(),
            12 => self.re_add(),
            13 => self.replace(),
            14..=17 => self.order(),
            _ => self.checks(settings),
        }
    }

    fn behaviour(&mut self, settings: &Settings) -> Behaviour {
        let rng = &mut self.rng;
        let quick = rng.u64(1..=30);
        let slow = rng.u64(50..=settings.timeout * 3 / 2);
        let (check, traffic) = match rng.u8(0..11) {
            0 | 1 => (Check::Fail(0), Traffic::Refuse),
            2 => (Check::Hang, Traffic::BlackHole),
            3 | 4 => (Check::Hang, Traffic::Hang),
            5 => (Check::Pass(slow), Traffic::Ok(slow)),
            6 => (Check::Pass(quick), Traffic::Unavailable(quick)),
            7 => (Check::Pass(quick), Traffic::Reset(quick)),
            8 => (Check::Fail(quick), Traffic::Ok(quick)),
            9 => (Check::Pass(quick), Traffic::Break(quick)),
            _ => (Check::Pass(quick), Traffic::Error(quick)),
        };
        Behaviour { check, traffic }
    }

    fn well(&mut self) -> Behaviour {
        let quick = self.rng.u64(1..=30);
        Behaviour {
            check: Check::Pass(quick),
            traffic: Traffic::Ok(quick),
        }
    }

    /// One address is ill for a while.
    fn phase(&mut self, settings: &Settings) {
        let port = self.port();
        let ill = self.behaviour(settings);
        let lasts = self.rng.u64(200..=8 * settings.interval);
        let well = self.well();
        self.push(Step::Behave(port, ill));
        self.steps
            .push((self.now + lasts, Step::Behave(port, well)));
    }

    /// One address goes up and down.
    fn flap(&mut self, settings: &Settings) {
        let port = self.port();
        let ill = self.behaviour(settings);
        let well = self.well();
        let (mut at, beat) = (self.now, self.rng.u64(50..=3 * settings.interval));
        for _ in 0..self.rng.u32(2..=8) {
            self.steps.push((at, Step::Behave(port, ill)));
            at += self.rng.u64(1..=beat);
            self.steps.push((at, Step::Behave(port, well)));
            at += self.rng.u64(1..=beat);
        }
    }

    /// All addresses are ill at once.
    fn all(&mut self, settings: &Settings) {
        let ill = self.behaviour(settings);
        let lasts = self.rng.u64(200..=6 * settings.interval);
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            let well = self.well();
            self.push(Step::Behave(port, ill));
            self.steps
                .push((self.now + lasts, Step::Behave(port, well)));
        }
    }

    /// A new member, or new settings for an old one at the same address.
    fn join_or_change(&mut self) {
        let id = self.rng.u8(0..IDS);
        let mut spec = self.spec(id);
        match self.members.iter_mut().find(|m| m.id == id) {
            Some(old) => {
                spec.port = old.port;
                *old = spec;
            }
            None => self.members.push(spec),
        }
        self.push(Step::Upsert(spec));
    }

    fn readdress(&mut self) {
        let Some(i) = self.member() else { return };
        let port = self.port();
        if self.rng.u8(..) < 50 {
            self.push(Step::ThereAndBack(self.members[i], port));
        } else {
            self.members[i].port = port;
            self.push(Step::Upsert(self.members[i]));
        }
    }

    fn leave(&mut self) {
        let Some(i) = self.member() else { return };
        let gone = self.members.remove(i);
        self.push(Step::Remove(gone.id));
    }

    fn re_add(&mut self) {
        let Some(i) = self.member() else { return };
        let spec = self.members.remove(i);
        self.members.push(spec);
        self.push(Step::ReAdd(spec));
    }

    fn replace(&mut self) {
        let keep = self.rng.u8(..);
        let rng = &mut self.rng;
        self.members.retain(|_| rng.u8(..) < keep);
        rng.shuffle(&mut self.members);
        for _ in 0..self.rng.u8(0..3) {
            let id = self.rng.u8(0..IDS);
            let spec = self.spec(id);
            if self.members.iter().all(|m| m.id != id) {
                self.members.push(spec);
            }
        }
        if self.rng.bool()
            && let Some(i) = self.member()
        {
            self.members[i].port = self.port();
        }
        self.push(Step::Replace(self.members.clone()));
    }

    fn order(&mut self) {
        let Some(i) = self.member() else { return };
        let id = self.members[i].id;
        let step = match self.rng.u8(0..4) {
            0 | 1 => Step::Drain(id, self.rng.u64(0..=5_000)),
            2 => Step::Maintenance(id),
            _ => Step::Ready(id),
        };
        self.push(step);
        // Mostly undone; where not, the end does it.
        if self.rng.u8(..) < 200 {
            let lasts = self.rng.u64(0..=6_000);
            self.steps.push((self.now + lasts, Step::Ready(id)));
        }
    }

    fn checks(&mut self, settings: &Settings) {
        if !settings.prober_apart || self.rng.bool() {
            self.push(Step::RestartChecks);
        } else {
            self.push(Step::StopChecks);
            let lasts = self.rng.u64(0..=3_000);
            self.steps.push((self.now + lasts, Step::StartChecks));
        }
    }
}

/// Draws what retries are paid from: the defaults, which lives so short hardly use up, or so
/// little that the second or third retry is one too many.
fn budget(rng: &mut Rng) -> (u64, u64) {
    if rng.bool() {
        return BUDGET;
    }
    rng.choice([(0, 0), (0, 100), (0, 200), (20, 100)])
        .unwrap_or(BUDGET)
}

/// The layer's defaults.
const BUDGET: (u64, u64) = (200, 3_000);
