//! How replication stands, as `status` shows it.

use http::Method;
use isochrone_ident::WallMicros;
use serde_json::Value;

use super::client::{Ask, Client};
use super::cluster::uptime;
use super::failure::Failure;
use super::output::{cell, table};
use super::units;

/// The report at that path; `None` where the daemon is of a version that has none.
///
/// # Errors
/// When the daemon cannot be asked.
pub(super) async fn report(client: &Client, path: &str) -> Result<Option<Value>, Failure> {
    match client.json(&Ask::new(Method::GET, path)).await {
        Ok(report) => Ok(Some(report)),
        Err(failure) if has_none(&failure) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn has_none(failure: &Failure) -> bool {
    let status = failure.problem.as_ref().and_then(|problem| problem["status"].as_u64());
    matches!(status, Some(404 | 405 | 501))
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What is wrong first, then each peer, then what is counted.
pub(super) fn text(report: &Value, now: WallMicros) -> String {
    let mut text: String = items(&report["concerns"]).iter().map(|concern| format!("! {}\n", cell(concern))).collect();
    text.push_str(&peers_text(items(&report["peers"]), now));
    text.push_str(&divergence_text(items(&report["divergence"])));
    text.push_str(&format!("under-replicated keys: {}\n", count(&report["under_replicated_keys"])));
    text.push_str(&format!("answers are at most so old: {}\n", milliseconds(&report["age_ms"])));
    text.push_str(&format!("deletes are kept for: {}\n", milliseconds(&report["stable_lag_ms"])));
    text.push_str(&copies_text(&report["copies"]));
    text
}

fn milliseconds(value: &Value) -> String {
    value.as_u64().map_or_else(|| "not known".to_owned(), |ms| format!("{ms} ms"))
}

/// What waits for each peer, and which of them lapsed (rule E5).
fn peers_text(peers: &[Value], now: WallMicros) -> String {
    const HEADER: [&str; 6] = ["peer", "region", "backlog", "size", "oldest_ms", "lapsed"];
    if peers.is_empty() {
        return String::new();
    }
    let lapsed = |peer: &Value| peer["lapsed_since"].as_u64().map(|since| format!("{} ago", uptime((now.0 / 1000).saturating_sub(since))));
    let row = |peer: &Value| {
        let size = peer["backlog_bytes"].as_u64().map_or_else(|| "-".to_owned(), units::bytes);
        let [node, region, backlog, oldest] = ["node", "region", "backlog", "oldest_ms"].map(|name| cell(&peer[name]));
        vec![node, region, backlog, size, oldest, lapsed(peer).unwrap_or_else(|| "-".to_owned())]
    };
    let mut text = table(&HEADER, &peers.iter().map(row).collect::<Vec<_>>());
    if peers.iter().any(|peer| lapsed(peer).is_some()) {
        text.push_str("lapsed: writes are no longer kept for it; anti-entropy is bringing it up to date, or will once it is back\n");
    }
    text
}

/// Which slots differ (rule E6), summed for each peer.
fn divergence_text(slots: &[Value]) -> String {
    let keys: u64 = slots.iter().map(|slot| count(&slot["keys"])).sum();
    let mut text = format!("divergent keys: {keys}");
    let mut regions: Vec<&str> = slots.iter().filter_map(|slot| slot["region"].as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    if !regions.is_empty() {
        text.push_str(&format!(" in {} slots, against {}; repair is under way", slots.len(), regions.join(", ")));
    }
    text.push('\n');
    text
}

/// The copies of keys whose replicas are elsewhere (rule E10).
fn copies_text(copies: &Value) -> String {
    let (hits, reads) = (count(&copies["hits"]), count(&copies["hits"]).saturating_add(count(&copies["misses"])));
    let mut text = format!("copies: {} ({})", count(&copies["entries"]), units::bytes(count(&copies["bytes"])));
    if reads > 0 {
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let share = hits as f64 / reads as f64 * 100.0;
        text.push_str(&format!(", which answered {share:.1} % of {reads} reads"));
    }
    text.push('\n');
    for stream in items(&copies["streams"]) {
        let age = milliseconds(&stream["age_ms"]);
        text.push_str(&format!("  of keys of {} ({}): age at most {age}\n", cell(&stream["node"]), cell(&stream["region"])));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: WallMicros = WallMicros(10_000_000_000);

    #[test]
    fn e5_a_lapsed_peer_is_told_with_its_time_and_what_it_means() {
        let peer = |lapsed: Value| json!({"node": "aa", "region": "eu-west", "backlog": 7, "backlog_bytes": 2048, "oldest_ms": 90, "lapsed_since": lapsed});
        let told = text(&json!({"peers": [peer(json!(9_939_000))]}), NOW);
        assert!(told.contains("1 min 1 s ago") && told.contains("2.0 KiB"), "{told}");
        assert!(told.contains("lapsed: writes are no longer kept for it; anti-entropy"), "{told}");
        assert!(!text(&json!({"peers": [peer(Value::Null)]}), NOW).contains("anti-entropy"));
    }

    #[test]
    fn e6_divergence_is_summed_and_names_the_regions() {
        let slot = |slot: u16, keys: u64| json!({"peer": "aa", "region": "eu-west", "slot": slot, "keys": keys});
        let told = text(&json!({"divergence": [slot(1, 2), slot(9, 3)], "under_replicated_keys": 4}), NOW);
        assert!(told.contains("divergent keys: 5 in 2 slots, against eu-west; repair is under way\n"), "{told}");
        assert!(told.contains("under-replicated keys: 4\n"), "{told}");
    }

    #[test]
    fn e10_copies_tell_their_hit_ratio_and_the_age_of_each_stream() {
        let stream = |age: Value| json!({"node": "bb", "region": "us-east", "age_ms": age});
        let copies = json!({"entries": 3, "bytes": 1536, "hits": 9, "misses": 1, "streams": [stream(json!(42)), stream(Value::Null)]});
        let told = text(&json!({"copies": copies}), NOW);
        assert!(told.contains("copies: 3 (1.5 KiB), which answered 90.0 % of 10 reads\n"), "{told}");
        assert!(told.contains("of keys of bb (us-east): age at most 42 ms\n") && told.contains("age at most not known"), "{told}");
    }

    #[test]
    fn a_report_of_a_healthy_cluster_is_short_and_concerns_come_first() {
        let told = text(&json!({"age_ms": 12, "stable_lag_ms": 130}), NOW);
        assert_eq!(
            told,
            "divergent keys: 0\nunder-replicated keys: 0\nanswers are at most so old: 12 ms\ndeletes are kept for: 130 ms\ncopies: 0 (0 B)\n"
        );
        assert!(text(&json!({"concerns": ["look here"]}), NOW).starts_with("! look here\n"));
    }

    #[test]
    fn a_daemon_without_a_report_is_no_failure() {
        for (status, is_none) in [(404, true), (501, true), (403, false), (503, false)] {
            let body = json!({"title": "x", "status": status}).to_string();
            assert_eq!(has_none(&Failure::of_answer(status, body.as_bytes())), is_none, "{status}");
        }
    }
}
