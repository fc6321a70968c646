//! The committer: all rows that wait become one group, one frame of the log, one sync.
//!
//! ```text
//!   queue ──group──> frame: write, sync ──> memory: fresh ──> on_synced
//!                      └─ the half is used up, or its rows are old ──> the log turns to its other half,
//!                                                          fresh becomes settling ──> a thread brings the tables up
//! ```

use std::io;
use std::sync::Arc;

use tokio::select;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::checkpoint::{Checkpoints, Round};
use super::engine::Engine;
use super::queue::Group;
use super::redo::{Redo, frame_of};
use super::shared::Shared;
use crate::Driver;
use crate::disk::is_full;

/// How often, at most, the gauges are shown.
const SHOWN_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) struct Committer {
    shared: Arc<Shared>,
    redo: Redo,
    checkpoints: Checkpoints,
    /// When the first row of the round under way came.
    fresh_since: Option<Instant>,
    shown: Instant,
}

/// Whether the committer goes on.
#[derive(Debug, PartialEq, Eq)]
enum Course {
    GoesOn,
    Ends,
}

/// Why the committer stopped in the middle.
enum Stop {
    /// The disk, or what is on it.
    Failed(String),
    /// The store was closed while the disk was full.
    Closed,
}

impl From<String> for Stop {
    fn from(detail: String) -> Self {
        Self::Failed(detail)
    }
}

impl Committer {
    pub(super) fn new(engine: Engine, redo: Redo, shared: Arc<Shared>) -> Self {
        let checkpoints = Checkpoints::new(engine, Arc::clone(&shared));
        Self { shared, redo, checkpoints, fresh_since: None, shown: Instant::now() }
    }

    /// Commits until the queue is closed or the disk fails.
    pub(super) async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(Course::GoesOn) => {}
                Ok(Course::Ends) => break self.leave_tidy().await,
                Err(Stop::Closed) => break,
                Err(Stop::Failed(detail)) => break self.shared.fail(&detail),
            }
        }
        self.shared.queue.clear();
        self.shared.end();
        self.checkpoints.close().await;
        self.shared.ended.send_replace(true);
    }

    async fn step(&mut self) -> Result<Course, Stop> {
        if self.shared.is_failed() {
            return Err(Stop::Failed("it has failed already".to_owned()));
        }
        self.checkpoints.look().await?;
        let options = &self.shared.options;
        if let Some(group) = self.shared.queue.take(options.group_rows_max, options.group_bytes_max) {
            self.commit(group).await?;
            return Ok(Course::GoesOn);
        }
        if self.shared.queue.is_closed() {
            return Ok(Course::Ends);
        }
        self.wait().await?;
        Ok(Course::GoesOn)
    }

    /// Nothing waits for the disk: the tables are brought up when it is time.
    async fn wait(&mut self) -> Result<(), Stop> {
        if self.begins_round() {
            self.turn()?;
            self.wait_out_sync().await;
            return Ok(());
        }
        let under_way = self.checkpoints.is_under_way();
        let due = self.fresh_since.filter(|_| !under_way).map(|since| since + self.shared.options.settle_interval);
        select! {
            biased;
            () = self.shared.queue.woken() => {}
            further = self.checkpoints.further() => further?,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        Ok(())
    }

    /// Whether it is time to bring the tables up.
    fn begins_round(&self) -> bool {
        let options = &self.shared.options;
        let is_old = self.fresh_since.is_some_and(|since| since.elapsed() >= options.settle_interval);
        let is_long = self.redo.bytes() >= options.round_bytes_max || self.shared.memory.fresh_bytes() >= options.fresh_bytes_max();
        !self.checkpoints.is_under_way() && (is_old || is_long || self.checkpoints.untidy && self.shared.queue.rows() == 0)
    }

    /// Ends the round and sends it on its way.
    fn turn(&mut self) -> Result<(), String> {
        self.fresh_since = None;
        let mark = self.redo.turn(self.shared.options.seed);
        let rows = self.shared.memory.settle();
        self.checkpoints.begin(Round { rows, mark })
    }

    /// Makes a group durable and tells of it.
    async fn commit(&mut self, group: Group) -> Result<(), Stop> {
        let started = Instant::now();
        let mut frame = frame_of(&group.rows);
        if Redo::takes(&frame) {
            self.write(&mut frame).await?;
            self.wait_out_sync().await;
            self.shared.memory.commit(&group.rows);
            self.fresh_since.get_or_insert(started);
        } else {
            self.commit_to_tables(&group).await?;
        }
        let meters = &self.shared.meters;
        meters.group_seconds.record(started.elapsed());
        meters.group_rows.record(u32::try_from(group.rows.len()).unwrap_or(u32::MAX));
        self.shared.count_group(group.rows.len());
        self.shared.queue.done(&group);
        self.shared.tell(group.through);
        if self.begins_round() {
            self.turn()?;
        }
        if self.shown.elapsed() >= SHOWN_EVERY {
            self.shown = Instant::now();
            self.shared.show();
        }
        Ok(())
    }

    /// Writes a frame to the log and syncs it. While the disk is full it is tried again and again: nothing that was given is lost.
    async fn write(&mut self, frame: &mut Vec<u8>) -> Result<(), Stop> {
        while !self.redo.fits(frame) {
            self.make_room().await?;
        }
        loop {
            match self.redo.append(frame) {
                Ok(()) => break,
                Err(error) if is_full(&error) => self.wait_for_room(&error).await?,
                Err(error) => return Err(Stop::Failed(format!("the log could not be written and synced: {error}"))),
            }
        }
        if !self.checkpoints.is_stuck() {
            self.shared.note_room();
        }
        Ok(())
    }

    /// The half is used up: turns to the other one, as soon as the tables have what that holds.
    async fn make_room(&mut self) -> Result<(), Stop> {
        if !self.checkpoints.is_under_way() {
            return Ok(self.turn()?);
        }
        self.checkpoints.further().await?;
        if self.checkpoints.is_stuck() && self.shared.queue.is_closed() { Err(Stop::Closed) } else { Ok(()) }
    }

    async fn wait_for_room(&self, error: &io::Error) -> Result<(), Stop> {
        self.shared.note_full(&error.to_string());
        let until = Instant::now() + self.shared.options.full_retry;
        if self.shared.pause(until).await { Err(Stop::Closed) } else { Ok(()) }
    }

    /// A group that no half of the log could hold goes to the tables at once, with all before it. Readers may see it a little before it is durable, which nobody is told yet.
    async fn commit_to_tables(&mut self, group: &Group) -> Result<(), Stop> {
        while self.checkpoints.is_under_way() {
            self.make_room().await?;
        }
        self.shared.memory.commit(&group.rows);
        self.turn()?;
        while self.checkpoints.is_under_way() {
            self.make_room().await?;
        }
        Ok(())
    }

    /// At the end the tables are brought up, so that the next start has nothing to do. If it can't be done, the log does it then.
    async fn leave_tidy(&mut self) {
        if let Err(detail) = self.checkpoints.look().await {
            return self.shared.fail(&detail);
        }
        if !self.checkpoints.is_under_way()
            && self.fresh_since.is_some()
            && let Err(detail) = self.turn()
        {
            tracing::warn!(detail, "the strong store's tables were not brought up at the end: the log will do it at the next start");
        }
    }

    async fn wait_out_sync(&self) {
        if let Driver::Task { sync_latency } = self.shared.options.driver {
            let latency = sync_latency + self.shared.medium.extra_sync_latency();
            if latency.is_zero() { yield_now().await } else { sleep(latency).await }
        }
    }
}
