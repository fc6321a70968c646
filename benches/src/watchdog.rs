//! A shell that ends what this process started, should this process be killed so that it cannot do it itself (SIGKILL).
//!
//! It reads from a pipe which processes there are; the pipe closes with this process, however that ends, and then those that are left are
//! asked to end. `dev` ends its daemons in turn. Folders stay in that case.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Lines are `+ PID` and `- PID`.
const SCRIPT: &str = r#"held=
while read -r sign pid; do
  if [ "$sign" = + ]; then held="$held $pid"; continue; fi
  left=
  for one in $held; do [ "$one" = "$pid" ] || left="$left $one"; done
  held=$left
done
[ -z "$held" ] || kill -TERM $held 2>/dev/null"#;

static PIPE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Starts it, once. Where there is no shell nobody watches.
pub(crate) fn start() {
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    if pipe.is_none() {
        *pipe = shell();
    }
}

/// In a group of its own, so that Ctrl-C in the terminal does not reach it.
fn shell() -> Option<ChildStdin> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().ok().and_then(|mut child| child.stdin.take())
}

/// Watches over a process.
pub(crate) fn watch(pid: u32) {
    tell('+', pid);
}

/// Forgets a process that has ended: its id may become another's.
pub(crate) fn forget(pid: u32) {
    tell('-', pid);
}

fn tell(sign: char, pid: u32) {
    if let Some(pipe) = PIPE.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        let _ = writeln!(pipe, "{sign} {pid}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::process::{gone_by, is_running};

    #[test]
    fn what_is_left_ends_when_the_pipe_closes_and_nothing_else_does() {
        let mut sleepers: Vec<_> = (0..3).map(|_| Command::new("sleep").arg("60").spawn().expect("started")).collect();
        let mut pipe = shell().expect("a shell");
        for sleeper in &sleepers {
            writeln!(pipe, "+ {}", sleeper.id()).expect("told");
        }
        writeln!(pipe, "- {}", sleepers[1].id()).expect("told");
        std::thread::sleep(Duration::from_millis(100));
        assert!(sleepers.iter().all(|sleeper| is_running(sleeper.id())), "all live while the pipe is open");
        drop(pipe);
        let by = Instant::now() + Duration::from_secs(5);
        assert!(gone_by(sleepers[0].id(), by) && gone_by(sleepers[2].id(), by));
        assert!(is_running(sleepers[1].id()), "it was forgotten");
        for sleeper in &mut sleepers {
            let _ = sleeper.kill();
            let _ = sleeper.wait();
        }
    }
}
