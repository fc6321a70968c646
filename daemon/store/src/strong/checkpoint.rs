//! Bringing the tables up with a round of the log, while the next round goes on.

use std::future::pending;
use std::sync::Arc;

use isochrone_quorum::Row;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::engine::{Engine, Spoiled};
use super::redo::Mark;
use super::shared::Shared;
use crate::Driver;

/// What the tables are to take over.
pub(super) struct Round {
    pub(super) rows: Vec<Row>,
    pub(super) mark: Mark,
}

/// A try that has ended.
struct Tried {
    engine: Engine,
    round: Round,
    result: Result<bool, Spoiled>,
}

/// Where the tables' engine is.
enum Stage {
    Idle(Engine),
    /// On a thread of its own, with a round.
    Busy(JoinHandle<Tried>),
    /// The disk had no room for a round, which is tried again then.
    Stuck(Engine, Round, Instant),
    /// The thread is gone: this is a bug, or the process ends.
    Gone,
}

/// The tables of one store, and the round on its way into them.
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    stage: Stage,
    /// Whether rows of wiped slots are left to sweep.
    pub(super) untidy: bool,
}

impl Checkpoints {
    pub(super) fn new(engine: Engine, shared: Arc<Shared>) -> Self {
        let untidy = engine.sums().ledger.stale_keys > 0;
        Self { shared, stage: Stage::Idle(engine), untidy }
    }

    /// Whether a round is on its way, so that no other may begin.
    pub(super) const fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Idle(_))
    }

    /// Whether a round waits for the disk to have room.
    pub(super) const fn is_stuck(&self) -> bool {
        matches!(self.stage, Stage::Stuck(..))
    }

    /// Sends a round on its way; none may be under way. An error says that the store has failed.
    pub(super) fn begin(&mut self, round: Round) -> Result<(), String> {
        match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Idle(engine) | Stage::Stuck(engine, ..) => self.start(engine, round),
            Stage::Busy(_) | Stage::Gone => Err("two rounds of the log were on their way: this is a bug".to_owned()),
        }
    }

    /// A simulated disk is worked on in this task, a real one on a thread of its own.
    fn start(&mut self, engine: Engine, round: Round) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        if matches!(shared.options.driver, Driver::Task { .. }) {
            return self.end(attempt(engine, round, &shared));
        }
        self.stage = Stage::Busy(spawn_blocking(move || attempt(engine, round, &shared)));
        Ok(())
    }

    /// Returns when what is under way has come further; never when nothing is. May be dropped and called again.
    pub(super) async fn further(&mut self) -> Result<(), String> {
        match &mut self.stage {
            Stage::Idle(_) => pending().await,
            Stage::Gone => Err("the thread of the tables is gone".to_owned()),
            Stage::Busy(handle) => {
                let tried = handle.await;
                self.stage = Stage::Gone;
                self.end(tried.map_err(|error| error.to_string())?)
            }
            Stage::Stuck(_, _, until) => {
                let until = *until;
                if self.shared.pause(until).await {
                    return Ok(());
                }
                match std::mem::replace(&mut self.stage, Stage::Gone) {
                    Stage::Stuck(engine, round, _) => self.start(engine, round),
                    other => {
                        self.stage = other;
                        Ok(())
                    }
                }
            }
        }
    }

    /// Takes note of a round that has arrived, without waiting.
    pub(super) async fn look(&mut self) -> Result<(), String> {
        match &self.stage {
            Stage::Busy(handle) if handle.is_finished() => self.further().await,
            _ => Ok(()),
        }
    }

    fn end(&mut self, tried: Tried) -> Result<(), String> {
        let Tried { engine, round, result } = tried;
        match result {
            Ok(untidy) => {
                self.untidy = untidy;
                self.shared.note_room();
                self.shared.publish(&engine);
                self.stage = Stage::Idle(engine);
                Ok(())
            }
            Err(Spoiled::Full(detail)) => {
                self.shared.note_full(&detail);
                self.stage = Stage::Stuck(engine, round, Instant::now() + self.shared.options.full_retry);
                Ok(())
            }
            Err(Spoiled::Fatal(detail)) => {
                self.stage = Stage::Idle(engine);
                Err(detail)
            }
        }
    }

    /// Waits for what is on its way, and closes the tables.
    pub(super) async fn close(mut self) {
        if matches!(self.stage, Stage::Busy(_))
            && let Err(detail) = self.further().await
        {
            tracing::warn!(detail, "the strong store's tables were not brought up at the end: the log will do it at the next start");
        }
        if let Stage::Idle(mut engine) | Stage::Stuck(mut engine, ..) = self.stage {
            let _turn = self.shared.gate.turn();
            engine.close(&self.shared.gate);
        }
    }
}

/// Commits a round to the tables, shows it to readers, and lets go of what memory held for them.
fn attempt(mut engine: Engine, round: Round, shared: &Shared) -> Tried {
    let started = Instant::now();
    let _turn = shared.gate.turn();
    let result = engine.commit(&shared.gate, &round.rows, round.mark).and_then(|untidy| {
        shared.gate.show(engine.snapshot().map_err(Spoiled::Fatal)?);
        shared.memory.settled();
        Ok(untidy)
    });
    shared.meters.settle_seconds.record(started.elapsed());
    shared.meters.settle_rows.record(u32::try_from(round.rows.len()).unwrap_or(u32::MAX));
    Tried { engine, round, result }
}
