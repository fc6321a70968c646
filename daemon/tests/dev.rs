//! `isochrone dev` as a user meets it: real processes, free ports, a directory of its own, everything gone afterwards.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far above what anything here takes on a busy machine; what it should take is measured by the benches.
const SOON: Duration = Duration::from_secs(60);

fn isochrone() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isochrone"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ISOCHRONE")) {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str], state: &Path) -> Output {
    isochrone().args(arguments).env("XDG_STATE_HOME", state).output().expect("started")
}

fn succeed(arguments: &[&str], state: &Path) -> String {
    let output = run(arguments, state);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A running `dev`. Dropping it kills it, and with it, through their stdin, all daemons.
struct Dev {
    process: Child,
    ready: Value,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        let mut process = isochrone()
            .args(["dev", "-o", "json", "--port-base", "0", "--delay-scale", "0.1", "--data-dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.with_extension("stderr")).expect("made"))
            .spawn()
            .expect("started");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no ready line: {line:?} {}", Self::stderr_of(dir)));
        Self { process, ready }
    }

    fn stderr_of(dir: &Path) -> String {
        fs::read_to_string(dir.with_extension("stderr")).unwrap_or_default()
    }

    fn region(&self, index: usize, member: &str) -> String {
        self.ready["regions"][index][member].as_str().expect("text").to_owned()
    }

    fn pids(&self) -> Vec<u64> {
        self.ready["regions"].as_array().expect("a list").iter().map(|region| region["pid"].as_u64().expect("a number")).collect()
    }

    fn end(mut self, signal: &str) -> bool {
        send(signal, u64::from(self.process.id()));
        self.process.wait().expect("waited for").success()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let pids = self.pids();
        until("the daemons are gone", || pids.iter().all(|&pid| !is_alive(pid)));
    }
}

fn send(signal: &str, pid: u64) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill is there").success());
}

/// A process that has ended but was not waited for yet counts as gone.
fn is_alive(pid: u64) -> bool {
    let mut stat = String::new();
    let read = fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read_to_string(&mut stat));
    read.is_ok() && !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "not within {} s: {what}", SOON.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn three_regions_share_what_one_took_and_survive_the_loss_of_one() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (dir, state) = (scratch.path().join("dev"), scratch.path().join("state"));
    let dev = Dev::start(&dir);
    assert_eq!(dev.ready["ready"], true);
    assert_eq!(dev.ready["one_way_ms"]["us-east"]["eu-west"], 3.75);

    // A second one is told who is in the way.
    let second = run(&["dev", "--data-dir", dir.to_str().expect("text"), "--port-base", "0"], &state);
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && told.contains(&format!("process {}", dev.process.id())), "{told}");

    // Files go in through one region, and are the same in another.
    let files = scratch.path().join("files");
    fs::create_dir_all(files.join("css")).expect("made");
    fs::write(files.join("index.html"), "<p>héllo</p>").expect("written");
    fs::write(files.join("css/site.css"), "p { color: red }").expect("written");
    fs::write(files.join("blob.bin"), vec![0xfe; 1 << 20]).expect("written");
    let files = files.to_str().expect("text");
    succeed(&["import", "--namespace", "data", "--dir", files, "--url", &dev.region(0, "http")], &state);
    let far = dev.region(2, "http");
    until("the far region has all of it", || {
        run(&["export", "--namespace", "data", "--verify", files, "--url", &far], &state).status.success()
    });

    // P5: what a change would move is told before it is made.
    let planned = || -> Value {
        let args = ["placement", "--plan", "add=us-west", "-o", "json", "--admin-url", &dev.region(2, "admin")];
        serde_json::from_str(&succeed(&args, &state)).expect("JSON")
    };
    let only_the_new_one_gains = |plan: &Value| {
        let others = plan["nodes"].as_array().into_iter().flatten().filter(|node| node["node"] != "(new)");
        others.filter_map(|node| node["gains"]["slots"].as_u64()).sum::<u64>() == 0
    };
    until("every region holds every slot", || {
        let plan = planned();
        plan["slots_estimated"] == 0 && only_the_new_one_gains(&plan)
    });
    let plan = planned();
    assert_eq!((&plan["total"]["keys"], &plan["total"]["slots"]), (&Value::from(9), &Value::from(3 * 4096)), "{plan}");
    let gained = plan["nodes"].as_array().expect("a list").iter().find(|node| node["node"] == "(new)").expect("the new node");
    assert!(gained["region"] == "us-west" && gained["gains"] == plan["moved"] && plan["moved"]["slots"].as_u64() > Some(1000), "{plan}");

    // One daemon dies: it is reported, the others go on, and it comes back by the command that was printed.
    send("-KILL", dev.pids()[1]);
    until("the death is told", || Dev::stderr_of(&dir).contains("the daemon of eu-west ended"));
    succeed(&["put", "data/after", "1", "--url", &dev.region(0, "http")], &state);
    let told = Dev::stderr_of(&dir);
    let by_hand = told.lines().find(|line| line.contains("serve --config")).expect("how to start it again").trim();
    let mut again = Command::new("sh").args(["-c", &format!("exec {by_hand}")]).stderr(Stdio::null()).spawn().expect("started");
    let back = dev.region(1, "http");
    until("the daemon is back with what it missed", || run(&["get", "data/after", "--url", &back], &state).stdout == b"1");
    send("-TERM", u64::from(again.id()));
    assert!(again.wait().expect("waited for").success(), "SIGTERM is a good end");

    assert!(dev.end("-INT"), "Ctrl-C is a good end");
}

#[test]
fn data_outlives_dev_and_no_daemon_does() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (dir, state) = (scratch.path().join("dev"), scratch.path().join("state"));
    let dev = Dev::start(&dir);
    succeed(&["put", "data/kept", "yes", "--url", &dev.region(0, "http")], &state);
    let pids = dev.pids();
    assert!(!dev.end("-KILL"));
    until("the daemons end with it", || pids.iter().all(|&pid| !is_alive(pid)));

    let dev = Dev::start(&dir);
    assert_eq!(succeed(&["get", "data/kept", "--url", &dev.region(0, "http")], &state), "yes");
}
