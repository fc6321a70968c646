//! The committer: all rows that wait become one group, one transaction, one sync.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::engine::{Engine, Spoiled};
use super::queue::Group;
use super::shared::Shared;
use crate::Driver;

pub(super) struct Committer {
    engine: Engine,
    shared: Arc<Shared>,
    /// Whether rows of wiped slots are left to sweep.
    untidy: bool,
}

/// Whether the committer goes on.
#[derive(PartialEq, Eq)]
enum Course {
    GoesOn,
    Ends,
}

impl Committer {
    pub(super) const fn new(engine: Engine, shared: Arc<Shared>) -> Self {
        Self { engine, shared, untidy: true }
    }

    /// Commits until the queue is closed or the disk fails.
    pub(super) async fn run(mut self) {
        while self.step().await == Course::GoesOn {}
        let _turn = self.shared.gate.turn();
        self.engine.close(&self.shared.gate);
        self.shared.end();
    }

    async fn step(&mut self) -> Course {
        let options = &self.shared.options;
        if let Some(group) = self.shared.queue.take(options.group_rows_max, options.group_bytes_max) {
            return self.commit(group).await;
        }
        if self.shared.queue.is_closed() || self.shared.is_failed() {
            return Course::Ends;
        }
        if self.untidy {
            return self.tidy().await;
        }
        self.shared.queue.woken().await;
        Course::GoesOn
    }

    /// Commits a group and tells of it. While the disk is full it is tried again and again: nothing that was given is lost.
    async fn commit(&mut self, group: Group) -> Course {
        loop {
            let started = Instant::now();
            match self.transact(&group) {
                Ok(()) => {
                    self.wait_out_sync().await;
                    self.shared.meters.group_seconds.record(started.elapsed());
                    self.shared.meters.group_rows.record(u32::try_from(group.rows.len()).unwrap_or(u32::MAX));
                    self.shared.count_group(group.rows.len());
                    self.shared.queue.done(&group);
                    self.shared.tell(group.through);
                    return Course::GoesOn;
                }
                Err(Spoiled::Full(detail)) => {
                    if self.wait_for_room(&detail).await == Course::Ends {
                        return Course::Ends;
                    }
                }
                Err(Spoiled::Fatal(detail)) => return self.fail(&detail),
            }
        }
    }

    /// Commits the rows, and shows them to readers.
    fn transact(&mut self, group: &Group) -> Result<(), Spoiled> {
        let shared = &self.shared;
        if let Some(reason) = shared.failure() {
            return Err(Spoiled::Fatal(reason.to_owned()));
        }
        let _turn = shared.gate.turn();
        self.untidy = self.engine.commit(&shared.gate, &group.rows)?;
        shared.gate.show(self.engine.snapshot().map_err(Spoiled::Fatal)?);
        shared.memory.commit(&group.rows);
        shared.full.store(false, Ordering::Relaxed);
        shared.publish(&self.engine);
        Ok(())
    }

    /// Sweeps when there is nothing else to do.
    async fn tidy(&mut self) -> Course {
        let nothing = Group { rows: Vec::new(), through: Default::default(), bytes: 0 };
        match self.transact(&nothing) {
            Ok(()) => self.wait_out_sync().await,
            Err(Spoiled::Full(detail)) => return self.wait_for_room(&detail).await,
            Err(Spoiled::Fatal(detail)) => return self.fail(&detail),
        }
        Course::GoesOn
    }

    /// Waits until a full disk is tried again; not any longer once the store is closed, when nobody was told of what waits.
    async fn wait_for_room(&self, detail: &str) -> Course {
        let shared = &self.shared;
        shared.meters.refused_full.increment(1);
        if !shared.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(detail, "the strong store's disk is full: rows wait for room, reads go on");
        }
        shared.publish(&self.engine);
        let until = Instant::now() + shared.options.full_retry;
        while !shared.queue.is_closed() {
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left, shared.queue.woken()).await.is_err() {
                return Course::GoesOn;
            }
        }
        Course::Ends
    }

    fn fail(&self, detail: &str) -> Course {
        self.shared.fail(detail);
        self.shared.queue.clear();
        Course::Ends
    }

    async fn wait_out_sync(&self) {
        if let Driver::Task { sync_latency } = self.shared.options.driver {
            let latency = sync_latency + self.engine.medium().extra_sync_latency();
            if latency.is_zero() { yield_now().await } else { sleep(latency).await }
        }
    }
}
