//! One run: a cluster comes up, works while things break, is healed, and must come to rest.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use isochrone::node::{Mutation, NodeOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use crate::clients::roaming;
use crate::clients::script::{self, Line};
use crate::clocks::Clock;
use crate::faults::{self, Fault, Planned};
use crate::shape::Shape;
use crate::shared::{Disks, Shared, Stage, lock};
use crate::{cluster, oracle};

/// Virtual time in which every daemon must be ready.
const BOOT_MAX: Duration = Duration::from_secs(20);
/// Virtual time in which a healed cluster must have come to rest.
const REST_MAX: Duration = Duration::from_secs(60);
/// The hosts' clocks agree to this much: packets arrive at such steps.
const TICK: Duration = Duration::from_millis(1);
/// A daemon that gave up is started again after this time.
const RESTART: Duration = Duration::from_millis(700);

/// Whether a run follows from its seed alone. Tokio wakes the tasks that wait on one `watch` in a random order, and lets a seed decide it only when it
/// is built with `--cfg tokio_unstable`, as `cargo sim` does. Without it, a run takes one of the orders that are possible.
#[allow(unexpected_cfgs, reason = "tokio_unstable is tokio's own")]
pub const EXACT: bool = cfg!(tokio_unstable);

/// The command that runs a seed again.
#[must_use]
pub fn again(seed: u64, time: Duration) -> String {
    format!("cargo sim --seed {seed} --minutes {}", time.as_secs_f64() / 60.0)
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of everything.
    pub seed: u64,
    /// How long things break, in virtual time.
    pub time: Duration,
    /// The cluster; drawn from the seed when not given.
    pub shape: Option<Shape>,
    /// The faults; drawn from the seed when not given.
    pub faults: Option<Vec<Planned>>,
    /// A bug to plant.
    pub mutation: Option<Mutation>,
    /// What clients ask, each at its time; drawn when not given.
    pub lines: Option<Vec<Line>>,
    /// Whether to leave out all clients but those of strong namespaces.
    pub only_strong: bool,
    /// Changes every daemon's options, so that a directed run tells something.
    pub tune: Option<fn(&mut NodeOptions)>,
    /// Whether to print the trace.
    pub shown: bool,
}

impl Plan {
    /// Everything as the seed says, breaking for that long.
    #[must_use]
    pub fn new(seed: u64, time: Duration) -> Self {
        Self { seed, time, shape: None, faults: None, mutation: None, lines: None, only_strong: false, tune: None, shown: false }
    }
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was wrong; empty when all was well.
    pub violations: Vec<String>,
    /// The hash of all that could be observed.
    pub trace: u64,
    /// How many events that was over.
    pub events: u64,
    /// Requests that were answered.
    pub answers: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Virtual time that it took.
    pub elapsed: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, events, answers, acknowledged, elapsed, .. } = self;
        write!(
            f,
            "trace {trace:016x} over {events} events, {answers} answers, {acknowledged} writes acknowledged, {:.1} s",
            elapsed.as_secs_f64()
        )
    }
}

thread_local! {
    /// The first panic of this thread's run: tokio would keep it to itself.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|first| {
                first.get_or_insert_with(|| info.to_string());
            });
            before(info);
        }));
    });
}

/// Runs a plan to its end.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    watch_panics();
    PANIC.take();
    let shape = plan.shape.clone().unwrap_or_else(|| Shape::draw(plan.seed));
    let shared = Arc::new(Shared::new(plan, shape));
    let mut run = Run::new(plan, Arc::clone(&shared));
    let ended = run.boot().and_then(|()| run.work()).and_then(|()| run.heal()).and_then(|()| run.verify());
    let elapsed = run.sim.elapsed();
    drop(run);
    let (trace, events) = lock(&shared.trace).digest();
    let history = lock(&shared.history);
    let strong = lock(&shared.strong);
    let violations = history.violations().iter().cloned().chain(strong.check()).chain(ended.err()).collect();
    Outcome {
        violations,
        trace,
        events,
        answers: history.answers,
        acknowledged: history.acknowledged + lock(&shared.typed).acknowledged + strong.acknowledged,
        elapsed,
    }
}

/// What is to be done at a time.
enum Action {
    Begin(Fault),
    End(Fault),
    Start(usize),
}

struct Run {
    sim: Sim<'static>,
    shared: Arc<Shared>,
    faults: Vec<Planned>,
    time: Duration,
    agenda: Vec<(Duration, Action)>,
    down: Vec<bool>,
    rng: StdRng,
}

impl Run {
    fn new(plan: &Plan, shared: Arc<Shared>) -> Self {
        let mut builder = turmoil::Builder::new();
        builder.rng_seed(plan.seed).tick_duration(TICK).simulation_duration(Duration::MAX).udp_capacity(65_536);
        let mut sim = builder.build();
        let nodes = shared.shape.nodes.len();
        for n in 0..nodes {
            let hosted = Arc::clone(&shared);
            let name = shared.shape.nodes[n].name.as_str();
            sim.host(name, move || cluster::live(Arc::clone(&hosted), n));
            shared.address(sim.lookup(name), n);
        }
        let clients = Arc::clone(&shared);
        match plan.lines.clone() {
            None => sim.host("clients", move || roaming::live(Arc::clone(&clients))),
            Some(lines) => sim.host("clients", move || script::live(Arc::clone(&clients), lines.clone())),
        }
        let mut rng = StdRng::seed_from_u64(plan.seed ^ 0x2_u64);
        set_links(&sim, &shared.shape);
        set_clocks(&shared, &mut rng);
        let faults = plan.faults.clone().unwrap_or_else(|| faults::draw(plan.seed, &shared.shape, plan.time));
        Self { sim, faults, time: plan.time, agenda: Vec::new(), down: vec![false; nodes], rng, shared }
    }

    /// One step of virtual time.
    fn step(&mut self) -> Result<(), String> {
        self.act();
        self.sim.step().map_err(|e| format!("a host failed: {e}"))?;
        if let Some(panic) = PANIC.take() {
            return Err(format!("a task panicked: {panic}"));
        }
        self.attend_failures()?;
        match lock(&self.shared.history).violations() {
            [] => Ok(()),
            _ => Err(format!("at {:.3} s", self.sim.elapsed().as_secs_f64())),
        }
    }

    /// Steps until `is_done`, at most for `time_max`; says whether it was done.
    fn until(&mut self, time_max: Duration, is_done: impl Fn(&Self) -> bool) -> Result<bool, String> {
        let end = self.sim.elapsed() + time_max;
        while self.sim.elapsed() < end {
            self.step()?;
            if is_done(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn boot(&mut self) -> Result<(), String> {
        let is_up = |run: &Self| {
            let reports = lock(&run.shared.reports);
            let initial = (0..reports.len()).filter(|&n| run.shared.shape.is_initial(n)).count();
            reports[..initial].iter().all(|r| r.ready && r.members == initial && r.slots_moving == 0)
        };
        if self.until(BOOT_MAX, is_up)? { Ok(()) } else { Err(format!("the cluster was not up after {BOOT_MAX:?}: {}", self.states())) }
    }

    fn work(&mut self) -> Result<(), String> {
        let begin = self.sim.elapsed();
        for planned in std::mem::take(&mut self.faults) {
            self.agenda.push((begin + planned.at + planned.lasts, Action::End(planned.fault.clone())));
            self.agenda.push((begin + planned.at, Action::Begin(planned.fault)));
        }
        *lock(&self.shared.joins_at) = Some(begin + self.time.mul_f64(self.rng.random_range(0.1..0.9)));
        *lock(&self.shared.stage) = Stage::Work;
        self.until(self.time, |_| false).map(|_| ())
    }

    /// Ends every fault and requires progress.
    fn heal(&mut self) -> Result<(), String> {
        self.agenda.retain(|(_, action)| matches!(action, Action::Start(_)));
        lock(&self.shared.net).heal();
        for clock in lock(&self.shared.clocks).iter_mut() {
            clock.stepped_us = 0;
        }
        for n in 0..self.down.len() {
            self.heal_disks(n);
        }
        *lock(&self.shared.stage) = Stage::Heal;
        for n in 0..self.down.len() {
            if self.down[n] && !self.agenda.iter().any(|(_, a)| matches!(a, Action::Start(m) if *m == n)) {
                self.start(n);
            }
        }
        let rested =
            self.until(REST_MAX, |run| run.sim.elapsed().subsec_millis().is_multiple_of(50) && oracle::unrest(&run.shared).is_none())?;
        if rested {
            return Ok(());
        }
        let why = oracle::unrest(&self.shared).unwrap_or_default();
        Err(format!("{REST_MAX:?} after healing, {why}: {}", self.states()))
    }

    fn heal_disks(&mut self, n: usize) {
        let mut disks = lock(&self.shared.disks);
        let disks = &mut disks[n];
        disks.full = false;
        for disk in [&disks.store, &disks.strong] {
            disk.set_capacity(None);
            disk.slow_syncs(Duration::ZERO);
            disk.fail_syncs(0);
        }
        if !disks.store.is_off() && !self.down[n] {
            disks.failing = false;
        }
    }

    fn verify(&mut self) -> Result<(), String> {
        let end = oracle::check_end(&self.shared);
        *lock(&self.shared.stage) = Stage::Verify(Arc::new(end));
        let read = self.until(REST_MAX, |run| lock(&run.shared.reports).iter().all(|r| r.verified))?;
        if read { Ok(()) } else { Err(format!("not every daemon could read everything: {}", self.states())) }
    }

    fn states(&self) -> String {
        let reports = lock(&self.shared.reports);
        let state = |(n, r): (usize, &crate::shared::Report)| {
            format!(
                "[{n}{} ready {} {:?} backlog {} moving {} members {} leader {:?} wrote {}]",
                if self.down[n] { " down" } else { "" },
                r.ready,
                r.failing,
                r.backlog,
                r.slots_moving,
                r.members,
                r.leader,
                r.wrote
            )
        };
        reports.iter().enumerate().map(state).collect::<Vec<_>>().join(" ")
    }

    /// Does what is due.
    fn act(&mut self) {
        let now = self.sim.elapsed();
        while let Some(at) =
            self.agenda.iter().enumerate().filter(|(_, (at, _))| *at <= now).min_by_key(|(i, (at, _))| (*at, *i)).map(|(i, _)| i)
        {
            match self.agenda.remove(at).1 {
                Action::Begin(fault) => {
                    tracing::info!(?now, ?fault, "begins");
                    self.begin(&fault);
                }
                Action::End(fault) => {
                    tracing::info!(?now, ?fault, "ends");
                    self.end(&fault);
                }
                Action::Start(n) => self.start(n),
            }
        }
    }

    fn begin(&mut self, fault: &Fault) {
        match *fault {
            Fault::Lose { from, to, ppm } => lock(&self.shared.net).lose(from, to, ppm),
            Fault::CutOneWay { from, to } => lock(&self.shared.net).cut(from, to, true),
            Fault::LoseLarge { from, to, bytes_max } => lock(&self.shared.net).limit(from, to, bytes_max),
            Fault::CutRegion { of } => self.cut_region(of, true),
            Fault::Crash { node, after_writes: 0 } => self.crash(node),
            Fault::Crash { node, after_writes } => {
                let disks = &mut lock(&self.shared.disks)[node];
                disks.failing = true;
                disks.store.power_off_after(after_writes);
            }
            Fault::LoseDisk { node } => self.lose_disk(node),
            Fault::ClockStep { node, millis } => lock(&self.shared.clocks)[node].stepped_us += millis * 1000,
            Fault::SyncError { node } => {
                let disks = &mut lock(&self.shared.disks)[node];
                disks.failing = true;
                disks.store.fail_syncs(1);
                disks.strong.fail_syncs(1);
            }
            Fault::DiskFull { node, room } => {
                let disks = &mut lock(&self.shared.disks)[node];
                disks.full = true;
                disks.store.set_capacity(Some(disks.store.used_bytes() + room));
                disks.strong.set_capacity(Some(disks.strong.used_bytes() + room));
            }
            Fault::SlowDisk { node, millis } => self.slow_disks(node, Duration::from_millis(millis)),
        }
    }

    fn end(&mut self, fault: &Fault) {
        match *fault {
            Fault::Lose { from, to, .. } => lock(&self.shared.net).lose(from, to, 0),
            Fault::CutOneWay { from, to } => lock(&self.shared.net).cut(from, to, false),
            Fault::LoseLarge { from, to, .. } => lock(&self.shared.net).limit(from, to, usize::MAX),
            Fault::CutRegion { of } => self.cut_region(of, false),
            Fault::Crash { node, .. } => {
                if !self.down[node] && lock(&self.shared.disks)[node].store.is_off() {
                    self.crash(node);
                }
                self.start(node);
            }
            Fault::LoseDisk { node } => self.start(node),
            Fault::ClockStep { node, millis } => lock(&self.shared.clocks)[node].stepped_us -= millis * 1000,
            Fault::SyncError { .. } => {}
            Fault::DiskFull { node, .. } => {
                let disks = &mut lock(&self.shared.disks)[node];
                disks.full = false;
                disks.store.set_capacity(None);
                disks.strong.set_capacity(None);
            }
            Fault::SlowDisk { node, .. } => self.slow_disks(node, Duration::ZERO),
        }
    }

    fn slow_disks(&self, node: usize, by: Duration) {
        let disks = &lock(&self.shared.disks)[node];
        disks.store.slow_syncs(by);
        disks.strong.slow_syncs(by);
    }

    fn cut_region(&self, of: usize, cut: bool) {
        let nodes = &self.shared.shape.nodes;
        let mut net = lock(&self.shared.net);
        let inside = |n: usize| nodes[n].region == nodes[of].region;
        for a in 0..nodes.len() {
            for b in (0..nodes.len()).filter(|&b| inside(a) != inside(b)) {
                net.cut(a, b, cut);
            }
        }
    }

    /// The power goes: first the disks lose what they had not synced, then the process is no more, so that nothing of its end reaches them.
    fn crash(&mut self, n: usize) {
        if self.down[n] {
            return;
        }
        let seed = self.rng.random();
        {
            let mut disks = lock(&self.shared.disks);
            disks[n].store.crash(seed);
            disks[n].council.crash(seed ^ 1);
            disks[n].strong.crash(seed ^ 2);
            disks[n].failing = false;
            if !disks[n].made {
                disks[n] = Disks::default();
            }
        }
        self.sim.crash(self.shared.shape.nodes[n].name.as_str());
        self.down[n] = true;
        let mut reports = lock(&self.shared.reports);
        reports[n] = crate::shared::Report { wrote: reports[n].wrote, ..Default::default() };
        lock(&self.shared.fatal)[n] = None;
        lock(&self.shared.trace).note(self.sim.elapsed(), format_args!("crash {n}"));
    }

    /// The machine is gone with its disk, and what it alone had acknowledged with it.
    fn lose_disk(&mut self, n: usize) {
        self.crash(n);
        self.agenda.retain(|(_, action)| !matches!(action, Action::Start(m) if *m == n));
        let shared = &self.shared;
        lock(&shared.disks)[n] = Disks::default();
        lock(&shared.errands).push(cluster::node_id(&shared.shape, n, shared.life(n)));
        lock(&shared.lives)[n] += 1;
        let clean = lock(&shared.clean)[n];
        lock(&shared.history).lose_disk(n, clean);
        lock(&shared.typed).lose_disk(n, clean);
        lock(&shared.trace).note(self.sim.elapsed(), format_args!("loses its disk {n}"));
    }

    fn start(&mut self, n: usize) {
        if self.down[n] {
            self.down[n] = false;
            self.sim.bounce(self.shared.shape.nodes[n].name.as_str());
            lock(&self.shared.trace).note(self.sim.elapsed(), format_args!("start {n}"));
        }
    }

    /// A daemon may give up when its disk fails, and for no other reason; its supervisor starts it again.
    fn attend_failures(&mut self) -> Result<(), String> {
        for n in 0..self.down.len() {
            let Some(reason) = lock(&self.shared.fatal)[n].take() else { continue };
            lock(&self.shared.trace).note(self.sim.elapsed(), format_args!("gives up {n}"));
            let excused = {
                let disks = &lock(&self.shared.disks)[n];
                disks.failing || disks.full || disks.store.is_off()
            };
            if !excused {
                return Err(format!("daemon {n} gave up although its disk works: {reason}"));
            }
            tracing::info!(n, reason, "gives up");
            self.crash(n);
            self.agenda.push((self.sim.elapsed() + RESTART, Action::Start(n)));
        }
        Ok(())
    }
}

fn set_links(sim: &Sim<'_>, shape: &Shape) {
    for a in 0..shape.nodes.len() {
        for b in 0..a {
            let (name, other, delay) = (shape.nodes[a].name.as_str(), shape.nodes[b].name.as_str(), shape.delay(a, b));
            sim.set_link_latency(name, other, delay);
            sim.set_link_max_message_latency(name, other, delay + delay / 50);
        }
    }
}

/// Clocks that differ by some tens of milliseconds and drift by up to 100 parts in a million.
fn set_clocks(shared: &Shared, rng: &mut StdRng) {
    for clock in lock(&shared.clocks).iter_mut() {
        *clock = Clock { offset_us: rng.random_range(-40_000..40_000), drift_ppm: rng.random_range(-100..100), stepped_us: 0 };
    }
}
