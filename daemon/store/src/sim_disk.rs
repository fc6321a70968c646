//! A disk in memory that behaves as a disk does when its power goes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

/// What a disk writes or doesn't write as a whole.
const SECTOR_BYTES: u64 = 512;
/// The unit in which the image is kept and room is counted, as a file system does.
const BLOCK_BYTES: u64 = 4096;

/// A disk in memory for simulations. Reads see every write at once; what was not synced may be lost, in part or whole, when the power goes.
/// Everything it does follows from the calls made on it and the seeds given to it. Cloning shares the disk: a test keeps a clone, and
/// so the disk outlives the process that used it.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<Disk>>);

#[derive(Debug, Default, Clone)]
struct Disk {
    /// What reads see.
    seen: Image,
    /// What survives for certain.
    synced: Image,
    /// What was done to `seen` since the last sync.
    pending: Vec<Change>,
    /// Raised by a loss of power: a process of before can't touch the disk of after.
    generation: u64,
    /// Bytes of blocks that fit; no bound when `None`.
    capacity: Option<u64>,
    /// How many of the next syncs fail.
    failing_syncs: u32,
    /// Writes, resizes and syncs left until the power goes; never when `None`.
    operations_left: Option<u64>,
    sync_latency: Duration,
    syncs: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, data: Arc<[u8]> },
    Len(u64),
}

/// Bytes up to a length; blocks never written are zero.
#[derive(Debug, Default, Clone)]
struct Image {
    len: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK_BYTES as usize]>>,
}

impl SimDisk {
    /// An empty disk without bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The power goes and comes back: of what was not synced a part survives, chosen by the seed, some of it torn at a sector's edge.
    /// Whoever had the disk open before gets errors from then on; the power stays on until [`SimDisk::power_off_after`] is called anew.
    pub fn crash(&self, seed: u64) {
        let mut disk = self.lock();
        let survived = disk.after_power_loss(seed);
        *disk = survived;
    }

    /// What [`SimDisk::crash`] would leave, as a disk of its own; this one goes on.
    #[must_use]
    pub fn after_power_loss(&self, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(self.lock().after_power_loss(seed))))
    }

    /// The power goes after so many more writes, resizes and syncs: the next one and everything later fails until [`SimDisk::crash`].
    pub fn power_off_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// Whether the power has gone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().operations_left == Some(0)
    }

    /// The next `count` syncs fail. What they should have synced is then on the disk or not, as after a failed `fsync`, and never synced again.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().failing_syncs = count;
    }

    /// From now on at most so many bytes of blocks fit; writes to further ones fail for want of room. `None` takes the bound away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes of blocks in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().seen.used_bytes()
    }

    /// From now on a sync takes so much longer than the store's driver says.
    pub fn slow_syncs(&self, by: Duration) {
        self.lock().sync_latency = by;
    }

    pub(crate) fn sync_latency(&self) -> Duration {
        self.lock().sync_latency
    }

    /// How often it was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Flips a bit in the middle of every place that holds these bytes, synced or not. Tells how many there were.
    pub fn corrupt(&self, pattern: &[u8]) -> usize {
        let mut disk = self.lock();
        let mut bytes = vec![0; usize::try_from(disk.seen.len).unwrap_or(0)];
        disk.seen.read(0, &mut bytes);
        let places: Vec<usize> = bytes.windows(pattern.len().max(1)).enumerate().filter(|(_, w)| *w == pattern).map(|(at, _)| at).collect();
        for &place in &places {
            let at = place + pattern.len() / 2;
            disk.damage(at as u64, bytes[at] ^ 0x10);
        }
        places.len()
    }

    /// The disk as a process sees it that starts now; for databases other than the store's as well.
    #[must_use]
    pub fn backend(&self) -> impl StorageBackend + use<> {
        SimBackend { disk: self.clone(), generation: self.lock().generation }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn after_power_loss(&self, seed: u64) -> Self {
        let mut image = self.synced.clone();
        survive(&mut image, &self.pending, seed);
        Self {
            seen: image.clone(),
            synced: image,
            generation: self.generation + 1,
            capacity: self.capacity,
            sync_latency: self.sync_latency,
            ..Self::default()
        }
    }

    fn damage(&mut self, at: u64, byte: u8) {
        self.seen.write(at, &[byte]);
        self.synced.write(at, &[byte]);
        let hit = |offset: u64, data: &[u8]| at.checked_sub(offset).filter(|within| *within < data.len() as u64);
        for change in &mut self.pending {
            if let Change::Write { offset, data } = change
                && let Some(within) = hit(*offset, data)
            {
                let mut damaged = data.to_vec();
                damaged[usize::try_from(within).unwrap_or(0)] = byte;
                *data = damaged.into();
            }
        }
    }

    /// Counts one operation against the power that is left.
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(io::Error::other("the simulated disk has no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.spend()?;
        if let Some(capacity) = self.capacity
            && self.seen.used_bytes() + self.seen.missing_bytes(offset, data.len() as u64) > capacity
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.seen.write(offset, data);
        self.pending.push(Change::Write { offset, data: data.into() });
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.spend()?;
        self.seen.set_len(len);
        self.pending.push(Change::Len(len));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.spend()?;
        self.syncs += 1;
        let pending = std::mem::take(&mut self.pending);
        if self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            survive(&mut self.synced, &pending, self.syncs);
            return Err(io::Error::other("the simulated disk failed to sync"));
        }
        for change in &pending {
            match change {
                Change::Write { offset, data } => self.synced.write(*offset, data),
                Change::Len(len) => self.synced.set_len(*len),
            }
        }
        Ok(())
    }
}

/// What a loss of power does to a change, drawn from the seed and from what the change is, not from the order in which a process happens to make its
/// writes, which need not be the same in two runs.
fn draw(seed: u64, kind: u64, place: u64, occurrence: u64) -> u64 {
    let words = [seed, kind, place, occurrence];
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&bytes)
}

/// Applies to `image` the part of `pending` that survives: of three writes one is lost, one is whole, one is torn.
fn survive(image: &mut Image, pending: &[Change], seed: u64) {
    let mut occurrences: BTreeMap<u64, u64> = BTreeMap::new();
    for change in pending {
        match change {
            Change::Len(len) => {
                if draw(seed, 0, *len, 0).is_multiple_of(2) {
                    image.set_len(*len);
                }
            }
            Change::Write { offset, data } => {
                let occurrence = occurrences.entry(*offset).or_default();
                *occurrence += 1;
                match draw(seed, 1, *offset, *occurrence) % 3 {
                    0 => {}
                    1 => image.write_within(*offset, data),
                    _ => tear(image, *offset, data, seed, *occurrence),
                }
            }
        }
    }
}

/// Writes some of the sectors that `data` covers.
fn tear(image: &mut Image, offset: u64, data: &[u8], seed: u64, occurrence: u64) {
    let mut at = 0;
    while at < data.len() {
        let place = offset + at as u64;
        let left = usize::try_from(SECTOR_BYTES - place % SECTOR_BYTES).unwrap_or(1);
        let end = data.len().min(at + left);
        if draw(seed, 2, place, occurrence).is_multiple_of(2) {
            image.write_within(place, &data[at..end]);
        }
        at = end;
    }
}

impl Image {
    fn used_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES
    }

    /// Bytes of blocks that a write would have to add.
    fn missing_bytes(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (offset / BLOCK_BYTES, (offset + len - 1) / BLOCK_BYTES);
        (last - first + 1 - self.blocks.range(first..=last).count() as u64) * BLOCK_BYTES
    }

    fn set_len(&mut self, len: u64) {
        self.len = len;
        drop(self.blocks.split_off(&len.div_ceil(BLOCK_BYTES)));
        let within = usize::try_from(len % BLOCK_BYTES).unwrap_or(0);
        if within > 0
            && let Some(block) = self.blocks.get_mut(&(len / BLOCK_BYTES))
        {
            Arc::make_mut(block)[within..].fill(0);
        }
    }

    /// Calls `visit` for each block that `len` bytes at `offset` touch: block number, bytes within the block, bytes within the whole.
    fn spans(offset: u64, len: usize, mut visit: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = usize::try_from(at % BLOCK_BYTES).unwrap_or(0);
            let count = (len - done).min(BLOCK_BYTES as usize - within);
            visit(at / BLOCK_BYTES, within..within + count, done..done + count);
            done += count;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        Self::spans(offset, data.len(), |number, within, whole| {
            let block = self.blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK_BYTES as usize]));
            Arc::make_mut(block)[within].copy_from_slice(&data[whole]);
        });
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Writes what lies below the image's length.
    fn write_within(&mut self, offset: u64, data: &[u8]) {
        let fits = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
        self.write(offset, &data[..fits]);
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        Self::spans(offset, out.len(), |number, within, whole| match self.blocks.get(&number) {
            Some(block) => out[whole].copy_from_slice(&block[within]),
            None => out[whole].fill(0),
        });
    }
}

/// A [`SimDisk`] as one process sees it.
#[derive(Debug)]
pub(crate) struct SimBackend {
    disk: SimDisk,
    generation: u64,
}

impl SimBackend {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.generation != self.generation || disk.operations_left == Some(0) {
            return Err(io::Error::other("the simulated disk lost its power"));
        }
        act(&mut disk)
    }
}

impl StorageBackend for SimBackend {
    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(disk.seen.len))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|disk| {
            if offset + out.len() as u64 > disk.seen.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            disk.seen.read(offset, out);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|disk| disk.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(Disk::sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|disk| disk.write(offset, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        disk.backend().read(offset, &mut out).expect("reads");
        out
    }

    #[test]
    fn what_was_synced_survives_every_loss_of_power() {
        let disk = SimDisk::new();
        let process = disk.backend();
        process.set_len(8192).expect("resizes");
        process.write(4000, &[7; 500]).expect("writes");
        process.sync_data().expect("syncs");
        for seed in 0..50 {
            assert_eq!(read(&disk.after_power_loss(seed), 4000, 500), vec![7; 500]);
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_whole_or_torn_as_the_seed_says() {
        let disk = SimDisk::new();
        let process = disk.backend();
        process.set_len(8192).expect("resizes");
        process.sync_data().expect("syncs");
        process.write(0, &[7; 4096]).expect("writes");
        let survived: Vec<usize> =
            (0..60).map(|seed| read(&disk.after_power_loss(seed), 0, 4096).iter().filter(|&&b| b == 7).count()).collect();
        assert!(survived.contains(&0) && survived.contains(&4096));
        assert!(survived.iter().any(|&count| count > 0 && count < 4096));
        assert!(survived.iter().all(|count| count % 512 == 0));
        assert_eq!(read(&disk.after_power_loss(3), 0, 4096), read(&disk.after_power_loss(3), 0, 4096));
    }

    #[test]
    fn a_process_of_before_cannot_touch_the_disk_of_after() {
        let disk = SimDisk::new();
        let process = disk.backend();
        disk.crash(1);
        assert!(process.write(0, &[1]).is_err());
        assert!(disk.backend().write(0, &[1]).is_ok());
    }

    #[test]
    fn a_full_disk_takes_writes_to_blocks_that_it_has() {
        let disk = SimDisk::new();
        let process = disk.backend();
        process.write(0, &[1; 4096]).expect("writes");
        disk.set_capacity(Some(4096));
        assert!(process.write(100, &[2; 10]).is_ok());
        assert_eq!(process.write(4096, &[2]).expect_err("full").kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn the_power_goes_after_so_many_operations() {
        let disk = SimDisk::new();
        let process = disk.backend();
        disk.power_off_after(2);
        assert!(process.write(0, &[1]).is_ok() && process.write(1, &[1]).is_ok());
        assert!(process.write(2, &[1]).is_err() && process.len().is_err() && disk.is_off());
        disk.crash(0);
        assert!(disk.backend().write(0, &[1]).is_ok());
    }
}
