//! One region's daemon process: started with its log in a file, stopped through its stdin, reported when it dies.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::super::failure::Failure;

/// How long a daemon may take to end when asked, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How long a dead daemon stays down with `--restart`.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How much of the log's end is shown when a daemon dies.
const TAIL_LINES: usize = 10;
const TAIL_BYTES: u64 = 16 << 10;
/// Of longer lines the rest is left to whoever opens the log.
const TAIL_CHARS: usize = 240;

/// How to start a daemon.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    /// Its region.
    pub(super) region: &'static str,
    /// The program: this one.
    pub(super) program: PathBuf,
    /// The node file.
    pub(super) config: PathBuf,
    /// Settings from the command line.
    pub(super) settings: Vec<(String, String)>,
    /// Where stdout and stderr go.
    pub(super) log: PathBuf,
}

impl Recipe {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["serve".to_owned(), "--config".to_owned(), self.config.display().to_string()];
        for (key, value) in &self.settings {
            arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        arguments
    }

    /// The command line that starts it by hand.
    pub(super) fn by_hand(&self) -> String {
        std::iter::once(self.program.display().to_string()).chain(self.arguments()).map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
    }

    /// Starts it. Its stdin is a pipe from here: when this process ends, however it ends, the daemon does too. A group of its own keeps
    /// the terminal's Ctrl-C from it, so that it is stopped once and in order. Settings come from the file alone, not from the environment.
    fn start(&self) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(self.arguments()).arg("--exit-with-stdin");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ISOCHRONE__")) {
            command.env_remove(name);
        }
        // Logs go to a file: no colours.
        command.env("NO_COLOR", "1");
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true).spawn()
    }
}

fn quoted(word: &str) -> String {
    let is_plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Running {
    recipe: Recipe,
    child: Child,
    /// Kept apart from the child, whose `wait` would close it.
    stdin: Option<ChildStdin>,
}

impl Running {
    /// Starts a daemon with an empty log; the one before is kept as `.1`.
    ///
    /// # Errors
    /// When log or process cannot be had.
    pub(super) fn start(recipe: Recipe) -> Result<Self, Failure> {
        let _ = fs::rename(&recipe.log, recipe.log.with_extension("log.1"));
        let mut child = recipe.start().map_err(|error| Failure::file("start", &recipe.program, &error))?;
        let stdin = child.stdin.take();
        Ok(Self { recipe, child, stdin })
    }

    /// Its process id, while it runs.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Runs it until `stop` says otherwise. A death in between is told on stderr; with `restarts` it is started again, else
    /// that is all, and the region is given back.
    pub(super) async fn mind(mut self, mut stop: watch::Receiver<bool>, restarts: bool) -> &'static str {
        loop {
            let died = tokio::select! { biased;
                _ = stop.wait_for(|is_stopped| *is_stopped) => None,
                status = self.child.wait() => Some(status),
            };
            let Some(status) = died else {
                self.end().await;
                return self.recipe.region;
            };
            eprintln!("{}", obituary(&self.recipe, status.ok(), restarts));
            if !restarts || self.revive(&mut stop).await.is_none() {
                return self.recipe.region;
            }
        }
    }

    async fn revive(&mut self, stop: &mut watch::Receiver<bool>) -> Option<()> {
        tokio::select! { biased;
            _ = stop.wait_for(|is_stopped| *is_stopped) => return None,
            () = sleep(RESTART_PAUSE) => {}
        }
        match self.recipe.start() {
            Ok(child) => {
                self.child = child;
                self.stdin = self.child.stdin.take();
            }
            Err(error) => {
                eprintln!("{} cannot be started again: {error}", self.recipe.region);
                return None;
            }
        }
        Some(())
    }

    /// Closes its stdin, which it takes for SIGTERM; kills it when it does not end in time.
    async fn end(&mut self) {
        drop(self.stdin.take());
        if timeout(GRACE, self.child.wait()).await.is_err() {
            eprintln!("{} did not end within {} s and was killed", self.recipe.region, GRACE.as_secs());
            let _ = self.child.kill().await;
        }
    }
}

fn obituary(recipe: &Recipe, status: Option<ExitStatus>, restarts: bool) -> String {
    let how = status.map_or_else(|| "for an unknown reason".to_owned(), |status| status.to_string());
    let tail = tail(&recipe.log).unwrap_or_default();
    let next = if restarts {
        "it is started again".to_owned()
    } else {
        format!("the others go on; start it again by hand:\n  {}", recipe.by_hand())
    };
    format!("\nthe daemon of {} ended ({how}). The end of its log, {}:\n{tail}{next}", recipe.region, recipe.log.display())
}

/// The log's last lines, indented.
pub(super) fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let cut = |line: &&str| line.chars().take(TAIL_CHARS).collect::<String>();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("  | {}\n", cut(line))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(dir: &Path, script: &str) -> Recipe {
        let program = dir.join("daemon");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("made executable");
        Recipe { region: "us-east", program, config: dir.join("node.toml"), settings: Vec::new(), log: dir.join("daemon.log") }
    }

    #[test]
    fn the_command_line_by_hand_can_be_pasted() {
        let mut recipe = recipe(Path::new("/tmp"), "");
        recipe.config = PathBuf::from("/a b/node.toml");
        recipe.settings = vec![("log.filter".to_owned(), "info,x=debug".to_owned())];
        assert!(recipe.by_hand().ends_with("daemon serve --config '/a b/node.toml' --set log.filter=info,x=debug"), "{}", recipe.by_hand());
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }

    #[tokio::test]
    async fn a_closed_stdin_ends_the_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let running = Running::start(recipe(dir.path(), "cat > /dev/null; echo drained")).expect("started");
        let (stop, stopped) = watch::channel(false);
        let minded = tokio::spawn(running.mind(stopped, false));
        sleep(Duration::from_millis(300)).await;
        assert_eq!(fs::read_to_string(dir.path().join("daemon.log")).expect("read"), "", "it runs until it is told to end");
        stop.send(true).expect("minded");
        assert_eq!(timeout(Duration::from_secs(5), minded).await.expect("in time").expect("no panic"), "us-east");
        assert_eq!(fs::read_to_string(dir.path().join("daemon.log")).expect("read"), "drained\n");
    }

    #[tokio::test]
    async fn a_death_is_reported_with_the_end_of_the_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let recipe = recipe(dir.path(), "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; exit 3");
        let mut running = Running::start(recipe.clone()).expect("started");
        let status = running.child.wait().await.expect("ended");
        let text = obituary(&recipe, Some(status), false);
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("| line 12\n") && text.contains("| line 3\n") && !text.contains("| line 2\n"), "{text}");
        assert!(text.contains("serve --config"), "{text}");
    }
}
