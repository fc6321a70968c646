//! Replicas that differ, in real daemons: after a cut that outlasts what is kept for a peer, and at an operator's word.

use std::time::Duration;

use serde_json::Value;
use tests::process::{Authority, Daemon, Spec, free_udp, until};

/// Longer than a silent connection is kept.
const CONNECTION_LOST: Duration = Duration::from_secs(5);

/// A network to `region` at `address` that can be cut, a log that is kept for a second, and comparisons every other second.
fn settings(region: &str, address: std::net::SocketAddr) -> String {
    format!(
        "[emulation]\nenabled = true\n[[emulation.links]]\naddress = \"{address}\"\nregion = \"{region}\"\none_way = \"5ms\"\n\
         [replication]\nhint_age_max = \"1s\"\nrepair_interval_min = \"1s\"\nrepair_interval_max = \"2s\"\n"
    )
}

fn report(daemon: &Daemon) -> Value {
    let (status, body) = daemon.admin("GET", "/v1/admin/replication", b"").expect("answers");
    assert_eq!(status, 200);
    serde_json::from_slice(&body).expect("JSON")
}

/// Whether every slot has a replica on each of two daemons, and none moves.
fn is_placed(daemon: &Daemon) -> bool {
    let answer = daemon.admin("GET", "/v1/admin/placement", b"").map(|(_, body)| body).unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.matches(":4096").count() >= 3 && answer.contains("\"slots_moving\":0")
}

/// Whether the log is not kept for the only peer.
fn is_lapsed(daemon: &Daemon) -> bool {
    report(daemon)["peers"][0]["lapsed_since"].is_u64()
}

fn cut(daemon: &Daemon, region: &str, what: &str) {
    let body = format!("{{\"region\": \"{region}\", \"cut\": \"{what}\"}}");
    assert_eq!(daemon.admin("PUT", "/v1/admin/emulation", body.as_bytes()).map(|(status, _)| status), Some(200));
}

#[test]
fn e5_e6_e7_after_a_cut_that_outlasts_the_log_a_comparison_brings_writes_and_deletes_and_nothing_comes_back() {
    let authority = Authority::new();
    let far = free_udp();
    let first = Daemon::ready(&authority, &Spec::new("us-east", 1).with(&settings("eu-west", far)));
    let kept = "[replication]\nhint_age_max = \"1s\"\nrepair_interval_min = \"1s\"\nrepair_interval_max = \"2s\"\n";
    let second = Daemon::start_at(&authority, &Spec::new("eu-west", 2).joining(&first).with(kept), far);
    second.wait_ready();
    until("both are members", || first.members() == 2 && second.members() == 2);
    until("both are replicas", || is_placed(&first) && is_placed(&second));
    assert_eq!(first.put("/v1/kv/data/deleted", b"0"), 204);
    assert_eq!(first.put("/v1/kv/data/changed", b"0"), 204);
    until("both have it", || second.get("/v1/kv/data/changed").is_some() && second.get("/v1/kv/data/deleted").is_some());

    cut(&first, "eu-west", "both");
    // Until the connection is given up: what was sent on it before that, QUIC would send again after the cut.
    std::thread::sleep(CONNECTION_LOST);
    assert_eq!(first.put("/v1/kv/data/here", b"1"), 204);
    assert_eq!(first.put("/v1/kv/data/changed", b"1"), 204);
    assert_eq!(first.http("DELETE", "/v1/kv/data/deleted", b"").map(|(status, _)| status), Some(204));
    assert_eq!(second.put("/v1/kv/data/there", b"2"), 204);
    until("each has lapsed for the other", || is_lapsed(&first) && is_lapsed(&second));
    // What has lapsed goes from a log with a later write.
    for n in 0..10 {
        assert_eq!((first.put(&format!("/v1/kv/data/later{n}"), b"3"), second.put(&format!("/v1/kv/data/late{n}"), b"3")), (204, 204));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(first.metric("isochrone_node_lapsed_peers") > 0.0);

    cut(&first, "eu-west", "none");
    until("each has what the other took", || {
        second.get("/v1/kv/data/here").as_deref() == Some(b"1")
            && second.get("/v1/kv/data/changed").as_deref() == Some(b"1")
            && second.get("/v1/kv/data/deleted").is_none()
            && first.get("/v1/kv/data/there").as_deref() == Some(b"2")
    });
    until("nobody is lapsed", || !is_lapsed(&first) && !is_lapsed(&second));
    let pulled = |daemon: &Daemon| daemon.metric("isochrone_repair_keys_pulled_total");
    assert!(pulled(&first) + pulled(&second) >= 1.0, "what went from the logs came by comparison");
    assert!(first.metric("isochrone_repair_sent_bytes_total") > 0.0);
    until("the delete is forgotten", || {
        let stable = |daemon: &Daemon| daemon.metric("isochrone_node_forgotten_total") > 0.0;
        stable(&first) || stable(&second)
    });
    assert_eq!((first.get("/v1/kv/data/deleted"), second.get("/v1/kv/data/deleted")), (None, None));
}

/// The end of a repair. Its lines come in chunks, each with its length before it.
fn repair(daemon: &Daemon) -> (u16, Value) {
    let (status, lines) = daemon.admin("POST", "/v1/admin/repair", b"").expect("answers");
    let last = lines.split(|byte| *byte == b'\n').rfind(|line| line.starts_with(b"{")).expect("a line");
    (status, serde_json::from_slice(last).expect("JSON"))
}

#[test]
fn e6_a_repair_at_an_operators_word_compares_all_slots_and_tells_how_far_it_is() {
    let authority = Authority::new();
    let first = Daemon::ready(&authority, &Spec::new("us-east", 1));
    let second = Daemon::ready(&authority, &Spec::new("eu-west", 2).joining(&first));
    until("both are members", || first.members() == 2 && second.members() == 2);
    for key in 0..20 {
        assert_eq!(first.put(&format!("/v1/kv/data/{key}"), b"value"), 204);
    }
    until("both have them", || (0..20).all(|key| second.get(&format!("/v1/kv/data/{key}")).is_some()));
    // Before it has become a replica there is nothing to compare.
    let mut last = (0, Value::Null);
    until("it compares all slots", || {
        last = repair(&second);
        last.1["slots_done"].as_u64() == Some(4096)
    });
    let (status, last) = last;
    assert_eq!((status, &last["done"], &last["failures"]), (200, &Value::Bool(true), &Value::Array(Vec::new())), "{last}");
    assert_eq!(last["keys_differing"].as_u64(), Some(0), "{last}");
    assert!(report(&second)["concerns"].as_array().is_some_and(Vec::is_empty));
    let unknown = second.admin("POST", "/v1/admin/repair", br#"{"namespace": "nothing"}"#);
    assert_eq!(unknown.map(|(status, _)| status), Some(404));
    let evictable = second.admin("POST", "/v1/admin/repair", br#"{"namespace": "cache"}"#);
    assert_eq!(evictable.map(|(status, _)| status), Some(409));
}
