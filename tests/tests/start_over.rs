//! A daemon that was away for too long (E7): its cluster goes on without it, and it comes back empty, by itself.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::process::{Authority, Daemon, Spec, free_udp, until};

/// The shortest that the settings allow.
const AWAY: &str = "[council]\naway_max = \"10s\"\n";

fn emulated(links: &[(&str, SocketAddr)]) -> String {
    let link = |(region, address): &(&str, SocketAddr)| {
        format!("[[emulation.links]]\naddress = \"{address}\"\nregion = \"{region}\"\none_way = \"5ms\"\n")
    };
    format!("{AWAY}[emulation]\nenabled = true\n{}", links.iter().map(link).collect::<String>())
}

fn cut(daemon: &Daemon, how: &str) {
    for region in ["eu-west", "ap-northeast"] {
        let body = format!("{{\"region\": \"{region}\", \"cut\": \"{how}\"}}");
        assert_eq!(daemon.admin("PUT", "/v1/admin/emulation", body.as_bytes()).map(|(status, _)| status), Some(200));
    }
}

/// Whether three daemons vote and hold every key, and no slot moves, as a daemon sees it.
fn is_settled(daemon: &Daemon) -> bool {
    let answer = |path| daemon.admin("GET", path, b"").map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default();
    let votes = answer("/v1/admin/members").matches("\"voter\":true").count();
    let replicas = answer("/v1/admin/placement/data/kept").matches("\"liveness\"").count();
    (votes, replicas) == (3, 3) && answer("/v1/admin/status").contains("\"slots_moving\":0")
}

/// Where a daemon keeps what it had before it started over.
fn kept(data_dir: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(data_dir).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("removed-")))
}

/// The founder is the one that is cut off: its own settings name nobody to join, and it must not found a second cluster.
#[test]
fn e7_a_daemon_that_was_away_for_too_long_starts_over_and_never_resurrects() {
    let authority = Authority::new();
    let (eu, ap) = (free_udp(), free_udp());
    let links = emulated(&[("eu-west", eu), ("ap-northeast", ap)]);
    let mut first = Daemon::ready(&authority, &Spec::new("us-east", 1).with(&links));
    let second = Daemon::start_at(&authority, &Spec::new("eu-west", 2).joining(&first).with(AWAY), eu);
    let third = Daemon::start_at(&authority, &Spec::new("ap-northeast", 3).joining(&first).with(AWAY), ap);
    second.wait_ready();
    third.wait_ready();
    until("three vote and every slot is in its place", || [&first, &second, &third].into_iter().all(is_settled));
    assert_eq!(second.put("/v1/kv/data/deleted", b"old"), 204);
    assert_eq!(second.put("/v1/kv/data/kept", b"here"), 204);
    until("the founder has them", || first.get("/v1/kv/data/deleted").is_some() && first.get("/v1/kv/data/kept").is_some());

    cut(&first, "both");
    assert_eq!(first.put("/v1/kv/data/alone", b"taken while away"), 204, "E5");
    assert_eq!(second.http("DELETE", "/v1/kv/data/deleted", b"").map(|(status, _)| status), Some(204));
    until("the founder is retired", || second.members() == 2 && third.members() == 2);
    let retired = |daemon: &Daemon| daemon.metric("isochrone_council_retired_total");
    until("and that is counted", || retired(&second) + retired(&third) == 1.0);
    std::thread::sleep(Duration::from_secs(3)); // the tombstone waits for nobody any more

    cut(&first, "none");
    assert_eq!(first.wait_end().code(), Some(8), "it is to be run again");
    let folder = kept(&first.dir.path().join("data")).expect("what it had is kept");
    let lines = fs::read_to_string(folder.join("unacknowledged/data.ndjson")).expect("listed");
    assert!(lines.contains("\"alone\"") && !lines.contains("\"kept\""), "{lines}");

    first.start_again();
    first.wait_ready();
    until("all are members of one cluster", || [&first, &second, &third].iter().all(|daemon| daemon.members() == 3));
    until("it is filled", || first.get("/v1/kv/data/kept").as_deref() == Some(b"here"));
    for daemon in [&first, &second, &third] {
        assert_eq!(daemon.get("/v1/kv/data/deleted"), None, "E7");
    }
    assert_eq!(first.put("/v1/kv/data/back", b"again"), 204);
    until("it takes part again", || second.get("/v1/kv/data/back").is_some() && third.get("/v1/kv/data/back").is_some());
    until("its decision is carried out", || folder.join("start-over.json").exists());
    assert!(folder.join("data.redb").exists() && folder.join("council.redb").exists());
}
