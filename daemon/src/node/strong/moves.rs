//! Q14: the council's leader drives every slot that is between two sets; who leads next begins anew, since each step may be repeated by anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isochrone_council::{Command, Role, SlotClass};
use isochrone_edge::StrongMoves;
use isochrone_ident::Slot;
use isochrone_quorum::{Answer, Asker, Configuration, KeyName, MoveOutput, Mover, MoverOptions, RoundId, Want, Wish};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::operate::Ended;
use super::{Reply, Strong, Work};
use crate::node::core::{Core, lock};
use crate::node::options::StrongOptions;

/// How often the leader looks at what moves, and tells the council what has moved.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an identity round may take (Q14d).
const IDENTITY_DEADLINE: Duration = Duration::from_secs(2);

/// Asks acceptors under a round of its own, and hears their answers.
pub(super) struct Line<'a> {
    strong: &'a Strong,
    /// What its mover or collector is made with.
    pub(super) number: u64,
    round: RoundId,
    pub(super) answers: mpsc::UnboundedReceiver<Answer>,
}

impl<'a> Line<'a> {
    /// A line with a round that this life of the daemon has not used. Answers are at most as many as were asked for.
    pub(super) fn open(strong: &'a Strong, asker: Asker) -> Self {
        let number = strong.last_asker.fetch_add(1, Ordering::Relaxed) + 1;
        let round = RoundId::new(asker, number);
        let (tell, answers) = mpsc::unbounded_channel();
        lock(&strong.askers).insert(round, tell);
        Self { strong, number, round, answers }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        lock(&self.strong.askers).remove(&self.round);
    }
}

impl Strong {
    /// Sends a request of a move or a collection, which delays nothing else.
    pub(super) fn ask_in_bulk(&self, to: isochrone_quorum::Member, request: isochrone_quorum::Request) {
        if to == self.me {
            self.run([Work::Ask { to: Reply::Here, request }]);
        } else {
            self.send(to.node, &request, true);
        }
    }
}

/// Keys that one slot's move certifies at a time, so that all of them keep to `strong.move_keys`.
fn move_window(options: &StrongOptions) -> usize {
    (options.move_keys / options.move_slots.max(1)).max(1)
}

/// What a running move says of itself.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) listed: AtomicU64,
    pub(crate) certified: AtomicU64,
}

/// Drives one slot's move; true when all its keys are certified.
async fn drive_slot(core: &Core, configuration: Arc<Configuration>, progress: &Progress) -> bool {
    let strong = &core.strong;
    let mut line = Line::open(strong, Asker::Mover);
    let options = MoverOptions { window: move_window(&core.options.strong), ..MoverOptions::default() };
    let slot = configuration.slot;
    let mut mover = Mover::new(line.number, options, configuration);
    let mut identities = FuturesUnordered::new();
    let mut outputs = mover.start();
    let mut late_at = None;
    loop {
        for output in outputs {
            match output {
                MoveOutput::Send { to, request } => strong.ask_in_bulk(to, request),
                MoveOutput::After { micros } => late_at = Some(Instant::now() + Duration::from_micros(micros)),
                MoveOutput::Identify(key) => identities.push(identify(strong, slot, key)),
                MoveOutput::Certified => return true,
                MoveOutput::Superseded => return false,
            }
        }
        let is_stale = strong.configuration(slot).is_none_or(|known| !known.phase.is_joint());
        if is_stale {
            return false;
        }
        let late = async {
            match late_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        outputs = tokio::select! {
            biased;
            answer = line.answers.recv() => match answer {
                Some(answer) => mover.answer(answer),
                None => return false,
            },
            Some((key, is_done)) = identities.next() => mover.identified(&key, is_done),
            () = late => mover.late(),
        };
        let now = mover.progress();
        progress.listed.fetch_max(now.listed as u64, Ordering::Relaxed);
        progress.certified.fetch_max(now.certified as u64, Ordering::Relaxed);
    }
}

/// Has the key's value chosen under the JOINT configuration.
async fn identify(strong: &Strong, slot: Slot, key: KeyName) -> (KeyName, bool) {
    let wish = Wish { handed_over: true, ..Wish::from(Want::ReadForUpdate) };
    let ended = strong.propose(slot, key.clone(), wish, Instant::now() + IDENTITY_DEADLINE).await;
    (key, matches!(ended, Ended::Done { result: Ok(_), .. }))
}

/// On the council's leader: moves every slot that is to move, for ever.
pub(crate) async fn drive(core: Arc<Core>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        if core.council.status().role == Role::Leader && core.view.load().placement.strong.is_moving() {
            drive_epoch(&core).await;
        }
        core.strong.moves.clear();
        core.strong.moves.measure(&core.strong.configurations.load());
    }
}

/// Until every slot has moved, or another daemon leads.
async fn drive_epoch(core: &Core) {
    let from = core.view.load().placement.strong.epoch;
    let mut running = FuturesUnordered::new();
    let mut begun = BTreeSet::new();
    let mut done = Vec::new();
    loop {
        if core.council.status().role != Role::Leader || core.view.load().placement.strong.epoch != from {
            return;
        }
        let configurations = core.strong.configurations.load_full();
        let waiting = configurations.joint().filter(|configuration| !begun.contains(&configuration.slot));
        let room = core.options.strong.move_slots.saturating_sub(running.len());
        for configuration in waiting.take(room).cloned().collect::<Vec<_>>() {
            begun.insert(configuration.slot);
            running.push(move_one(core, configuration));
        }
        let until = Instant::now() + PAUSE;
        while let Ok(Some((slot, has_moved))) = tokio::time::timeout_at(until, running.next()).await {
            begun.remove(&slot);
            if has_moved {
                done.push(slot);
                begun.insert(slot);
            }
        }
        if running.is_empty() && done.is_empty() {
            tokio::time::sleep_until(until).await;
        }
        core.strong.moves.measure(&configurations);
        if !done.is_empty() && complete(core, from, &done).await {
            done.clear();
        }
    }
}

async fn move_one(core: &Core, configuration: Arc<Configuration>) -> (Slot, bool) {
    let slot = configuration.slot;
    let progress = core.strong.moves.of(slot);
    (slot, drive_slot(core, configuration, &progress).await)
}

/// Q14f: tells the council which slots have moved.
async fn complete(core: &Core, from: isochrone_ident::Epoch, slots: &[Slot]) -> bool {
    let command = Command::Moved { class: SlotClass::Strong, from, slots: slots.to_vec() };
    match core.council.propose(command, core.options.propose_deadline).await {
        Ok(_) => true,
        Err(error) => {
            tracing::info!(%error, "strong slots that have moved could not be completed yet; trying again");
            false
        }
    }
}

/// The moves that this daemon drives.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    slots: std::sync::Mutex<BTreeMap<Slot, Arc<Progress>>>,
}

impl Moves {
    fn of(&self, slot: Slot) -> Arc<Progress> {
        Arc::clone(lock(&self.slots).entry(slot).or_default())
    }

    /// How far they are, together.
    pub(super) fn sum(&self) -> StrongMoves {
        let slots = lock(&self.slots);
        let (keys_listed, keys_certified) = sums(slots.values());
        StrongMoves { slots: slots.len() as u64, keys_listed, keys_certified }
    }

    fn clear(&self) {
        lock(&self.slots).clear();
    }

    fn measure(&self, configurations: &super::Configurations) {
        let mut slots = lock(&self.slots);
        slots.retain(|slot, _| configurations.get(*slot).is_some_and(|configuration| configuration.phase.is_joint()));
        let (listed, certified) = sums(slots.values());
        metrics::gauge!("isochrone_strong_slots_moving").set(configurations.joint().count() as f64);
        metrics::gauge!("isochrone_strong_keys_to_certify").set(listed.saturating_sub(certified) as f64);
    }
}

fn sums<'a>(moves: impl Iterator<Item = &'a Arc<Progress>>) -> (u64, u64) {
    moves.fold((0, 0), |(listed, certified), progress| {
        (listed + progress.listed.load(Ordering::Relaxed), certified + progress.certified.load(Ordering::Relaxed))
    })
}
