//! Child processes and folders that never outlive this process, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, watchdog};

/// How long a child may take to end when asked.
const GRACE: Duration = Duration::from_secs(15);
/// How often it is looked whether a process is gone.
const LOOK: Duration = Duration::from_millis(2);
/// How much of a log's end is shown.
const TAIL_BYTES: u64 = 2 << 10;

/// What must be ended and removed when this process ends.
#[derive(Debug)]
struct Held {
    processes: Vec<u32>,
    folders: Vec<PathBuf>,
}

static HELD: Mutex<Held> = Mutex::new(Held { processes: Vec::new(), folders: Vec::new() });

fn held<T>(change: impl FnOnce(&mut Held) -> T) -> T {
    change(&mut HELD.lock().unwrap_or_else(PoisonError::into_inner))
}

/// From here on SIGINT, SIGTERM, SIGHUP and panics end what is held before they end this process; after SIGKILL a watching shell ends
/// the processes, and folders stay.
///
/// # Errors
/// When signals cannot be listened for.
pub fn guard() -> io::Result<()> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        sweep();
    }));
    watchdog::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        if runtime.block_on(any_signal()).is_ok() {
            sweep();
            std::process::exit(130);
        }
    });
    Ok(())
}

async fn any_signal() -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! { biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

fn sweep() {
    let Held { processes, folders } = held(|held| Held { processes: held.processes.clone(), folders: held.folders.clone() });
    for &pid in &processes {
        send(pid, "TERM");
    }
    let by = Instant::now() + GRACE;
    for &pid in &processes {
        if !gone_by(pid, by) {
            send(pid, "KILL");
        }
    }
    for folder in folders {
        let _ = fs::remove_dir_all(folder);
    }
}

/// A folder that is removed again.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new folder in `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("isochrone-bench-").tempdir_in(parent)?;
        held(|held| held.folders.push(dir.path().to_owned()));
        Ok(Self(dir))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let own = self.path().to_owned();
        held(|held| held.folders.retain(|folder| *folder != own));
    }
}

/// A child that is ended when this value goes: asked first, killed when it does not.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
    is_over: bool,
}

impl Process {
    /// Starts it, its stdin a pipe from here, its stderr added to the file `log`, its stdout a pipe to here.
    ///
    /// # Errors
    /// When program or log cannot be had.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, Failure> {
        let stderr = OpenOptions::new().create(true).append(true).open(log)?;
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).env("NO_COLOR", "1").spawn();
        let mut child = spawned.map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
        held(|held| held.processes.push(child.id()));
        watchdog::watch(child.id());
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, log: log.to_owned(), is_over: false })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stdout; `None` the second time.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The end of its log, for a failure's text.
    #[must_use]
    pub fn last_words(&self) -> String {
        tail(&self.log).unwrap_or_default()
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        if !self.is_over {
            send(self.pid(), name);
        }
    }

    /// Waits for its end, for `patience` at most; whether it ended.
    pub fn ended_within(&mut self, patience: Duration) -> bool {
        let by = Instant::now() + patience;
        while !self.has_ended() && Instant::now() < by {
            std::thread::sleep(LOOK);
        }
        self.is_over
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        if !self.is_over && matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            self.is_over = true;
            let pid = self.pid();
            held(|held| held.processes.retain(|&other| other != pid));
            watchdog::forget(pid);
        }
        self.is_over
    }

    /// Asks it to end (SIGTERM, stdin closed) and waits; kills it when it takes too long.
    pub fn stop(&mut self) {
        self.signal("TERM");
        drop(self.stdin.take());
        if !self.ended_within(GRACE) {
            self.kill();
        }
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.has_ended();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal to a process that this one has started, or had started. The shell's own `kill`: it is there on every machine.
pub fn send(pid: u32, signal: &str) {
    let _ = Command::new("/bin/sh").arg("-c").arg(format!("kill -{signal} {pid}")).stderr(Stdio::null()).status();
}

/// Whether a process is still running; what only waits to be reaped is not.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name in parentheses, which may have any characters: proc_pid_stat(5).
    stat.rsplit_once(')').is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), None | Some('Z' | 'X')))
}

/// Waits until a process is gone, at most until `by`; whether it is.
#[must_use]
pub fn gone_by(pid: u32, by: Instant) -> bool {
    while is_running(pid) {
        if Instant::now() >= by {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// A process's resident memory in bytes (`VmRSS`).
///
/// # Errors
/// When it is gone.
pub fn resident_bytes(pid: u32) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    resident_in(&status).ok_or_else(|| format!("process {pid} has no VmRSS").into())
}

/// Ticks a second in `/proc/PID/stat`: what Linux shows to programs is always in hundredths (proc_pid_stat(5), `USER_HZ`).
const TICKS: u64 = 100;

/// The processor time of a process so far, in user and kernel mode, all of its threads together, to a hundredth of a second.
///
/// # Errors
/// When it is gone.
pub fn cpu_time(pid: u32) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks_in(&stat).ok_or_else(|| format!("process {pid} has no processor time"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Fields 14 and 15, counted from 1; the name in parentheses is field 2 and may have any characters.
fn cpu_ticks_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What the files under a folder take on disk, in bytes.
///
/// # Errors
/// When it cannot be read.
pub fn disk_bytes(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        // Blocks of 512 bytes: stat(2).
        sum += if found.is_dir() { disk_bytes(&entry.path())? } else { std::os::unix::fs::MetadataExt::blocks(&found) * 512 };
    }
    Ok(sum)
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        Process::start(Command::new("sleep").arg("60"), &dir.join("log")).expect("started")
    }

    #[test]
    fn a_process_does_not_outlive_its_value() {
        let dir = tempfile::tempdir().expect("a folder");
        let process = sleeper(dir.path());
        let pid = process.pid();
        assert!(is_running(pid));
        assert!(held(|held| held.processes.contains(&pid)));
        drop(process);
        assert!(!is_running(pid));
        assert!(!held(|held| held.processes.contains(&pid)));
    }

    #[test]
    fn a_killed_process_is_gone_before_it_is_reaped() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut process = sleeper(dir.path());
        send(process.pid(), "KILL");
        assert!(gone_by(process.pid(), Instant::now() + Duration::from_secs(5)), "a zombie does not run");
        assert!(process.ended_within(Duration::from_secs(5)));
    }

    #[test]
    fn a_scratch_folder_goes_with_what_is_in_it() {
        let parent = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::new(parent.path()).expect("made");
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), vec![1; 10_000]).expect("written");
        assert!(disk_bytes(parent.path()).expect("read") >= 10_000);
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t   12 kB\nThreads:\t1\n"), Some(12 << 10));
        assert_eq!(resident_in("Name:\tx\n"), None);
        assert!(resident_bytes(std::process::id()).expect("it runs") > 1 << 20);
    }

    #[test]
    fn processor_time_is_read_behind_any_name() {
        assert_eq!(cpu_ticks_in("7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 9 9 20 0"), Some(200));
        assert_eq!(cpu_ticks_in("7 (a"), None);
        let before = cpu_time(std::process::id()).expect("it runs");
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        assert!(cpu_time(std::process::id()).expect("it runs") > before);
    }
}
