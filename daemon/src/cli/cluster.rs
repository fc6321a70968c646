//! The commands of operators: apply, status, members, placement.

use std::path::Path;

use http::Method;
use isochrone_config::ClusterSpec;
use serde_json::{Value, json};

use super::address::{KeyAddress, url_path, url_query};
use super::args::{AdminAccess, ApplyArgs, MembersAction, MembersArgs, OutputFormat, PlacementArgs, StatusArgs};
use super::client::{Ask, Client, Patience, Payload};
use super::config::invalid;
use super::failure::{Exit, Failure};
use super::keys::no_path;
use super::output::{cell, outline, show, table};
use super::recover::ask;
use super::{replication, strong, units, wall_now};

pub(super) fn admin(access: &AdminAccess) -> Result<Client, Failure> {
    Client::new(&access.admin_url, &access.access, Patience::NONE, 1)
}

/// `isochrone apply`.
///
/// # Errors
/// When the file cannot be read, or the daemon refuses it.
pub(crate) async fn apply(args: &ApplyArgs, format: OutputFormat) -> Result<(), Failure> {
    let text = read_cluster_file(&args.file)?;
    let answer = admin(&args.admin)?.json(&apply_ask(text, args.dry_run, args.expect)?).await?;
    show(format, &answer, applied_text)?;
    Ok(())
}

fn apply_ask(text: String, is_dry_run: bool, expected: Option<u64>) -> Result<Ask, Failure> {
    let path = if is_dry_run { "/v1/admin/apply?dry_run=true" } else { "/v1/admin/apply" };
    let mut ask = Ask::new(Method::POST, path).header("content-type", "application/toml")?;
    if let Some(revision) = expected {
        ask = ask.header("if-match", &format!("\"{revision}\""))?;
    }
    Ok(ask.payload(Payload::Bytes(text.into())))
}

/// The text to apply. A file is checked here first, where its lines and the secrets that it names are.
fn read_cluster_file(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).map_err(|error| Failure::file("read", path, &error));
    }
    ClusterSpec::read(path).map(|(_, text)| text).map_err(|problems| invalid(&problems))
}

fn applied_text(answer: &Value) -> String {
    let verb = match (answer["dry_run"].as_bool(), answer["changed"].as_bool()) {
        (_, Some(false)) => "nothing changes",
        (Some(true), _) => "would change",
        _ => "applied",
    };
    let mut text = format!("{verb} (revision {})\n", cell(&answer["revision"]));
    for change in answer["changes"].as_array().into_iter().flatten() {
        text.push_str(&format!("  {}\n", cell(change)));
    }
    if !answer["plan"].is_null() {
        text.push_str(&indented(&moves_text(&answer["plan"])));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// `isochrone status`.
///
/// # Errors
/// When the daemon cannot be asked.
pub(crate) async fn status(args: &StatusArgs, format: OutputFormat) -> Result<(), Failure> {
    let client = admin(&args.admin)?;
    let mut answer = client.json(&Ask::new(Method::GET, "/v1/admin/status")).await?;
    for (member, path) in [("replication_report", "/v1/admin/replication"), ("strong_report", "/v1/admin/strong")] {
        if let Some(report) = replication::report(&client, path).await? {
            answer[member] = report;
        }
    }
    show(format, &answer, status_text)?;
    Ok(())
}

fn status_text(status: &Value) -> String {
    let ready = if status["ready"] == true { "ready" } else { "NOT READY" };
    let mut text = format!(
        "{} in {} of cluster {}: {ready}, up {}, version {}\n",
        cell(&status["node"]),
        cell(&status["region"]),
        cell(&status["cluster"]),
        uptime(status["uptime_ms"].as_u64().unwrap_or(0)),
        cell(&status["version"]),
    );
    for check in status["checks"].as_array().into_iter().flatten() {
        let mark = if check["ok"] == true { "ok  " } else { "FAIL" };
        text.push_str(&format!("  {mark} {}: {}\n", cell(&check["name"]), cell(&check["detail"])));
    }
    text.push_str(&format!("\nmembers\n{}", indented(&members_text(&status["members"]))));
    for (name, key) in [("round trips between regions, ms", "round_trips"), ("council", "council"), ("placement", "placement")] {
        text.push_str(&format!("\n{name}\n{}", indented(&section_text(key, &status[key]))));
    }
    let replication = match &status["replication_report"] {
        Value::Null => outline(&status["replication"]),
        report => replication::text(report, wall_now()),
    };
    if !status["strong_report"].is_null() {
        text.push_str(&format!("\nstrong keys\n{}", indented(&strong::text(&status["strong_report"]))));
    }
    text.push_str(&format!("\nreplication\n{}\nstore\n{}", indented(&replication), indented(&store_text(&status["store"]))));
    text
}

fn section_text(key: &str, value: &Value) -> String {
    if key == "round_trips" { matrix_text(&value["round_trip_ms"]) } else { outline(value) }
}

fn store_text(store: &Value) -> String {
    let size = |name: &str| store[name].as_u64().map_or_else(|| "-".to_owned(), units::bytes);
    format!("keys: {}\nvalues: {}\ndisk: {} of {}\n", cell(&store["keys"]), size("bytes"), size("disk_bytes"), size("disk_bytes_max"))
}

pub(super) fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// A region by region matrix, `{from: {to: ms}}`, as a table. Absent values are `-`.
pub(super) fn matrix_text(matrix: &Value) -> String {
    let names: Vec<&str> = matrix.as_object().into_iter().flat_map(|rows| rows.keys().map(String::as_str)).collect();
    let header: Vec<&str> = std::iter::once("from \\ to").chain(names.iter().copied()).collect();
    let value = |from: &str, to: &str| matrix[from][to].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    let row = |&from: &&str| std::iter::once(from.to_owned()).chain(names.iter().map(|to| value(from, to))).collect();
    table(&header, &names.iter().map(row).collect::<Vec<_>>())
}

/// `isochrone members`, `isochrone members remove`.
///
/// # Errors
/// When the daemon cannot be asked, or refuses.
pub(crate) async fn members(args: &MembersArgs, format: OutputFormat) -> Result<(), Failure> {
    let Some(MembersAction::Remove { node, lost, yes, admin: access }) = &args.action else {
        let answer = admin(&args.admin)?.json(&Ask::new(Method::GET, "/v1/admin/members")).await?;
        show(format, &answer, members_text)?;
        return Ok(());
    };
    if *lost && !*yes {
        ask(&format!(
            "{node} is given up for good. If a strong slot loses the majority of its replicas by that, those left of them go on from what they have: \
             writes that were acknowledged and reached only the lost ones are lost, and a write that was never acknowledged may come to count. \
             Should {node} run again, it is refused."
        ))?;
    }
    let query = if *lost { "?lost=true" } else { "" };
    admin(access)?.json(&Ask::new(Method::DELETE, format!("/v1/admin/members/{node}{query}"))).await?;
    let text = format!("removed {node}; its data is being placed elsewhere (`isochrone placement` shows how far that is)");
    show(format, &json!({"removed": node.to_string()}), |_| text)?;
    Ok(())
}

fn members_text(answer: &Value) -> String {
    const HEADER: [&str; 10] =
        ["node", "region", "zone", "address", "liveness", "voter", "capacity", "incarnation", "round_trip_ms", "backlog"];
    let members = answer.as_array().or_else(|| answer["members"].as_array());
    let row = |member: &Value| {
        HEADER
            .iter()
            .map(|&name| match (name, &member[name]) {
                ("node", node) if member["me"] == true => format!("{} *", cell(node)),
                ("round_trip_ms", ms) => ms.as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}")),
                ("voter", voter) => if voter == true { "yes" } else { "no" }.to_owned(),
                (_, other) => cell(other),
            })
            .collect()
    };
    table(&HEADER, &members.into_iter().flatten().map(row).collect::<Vec<_>>())
}

/// `isochrone placement`.
///
/// # Errors
/// When the daemon cannot be asked, or refuses the change.
pub(crate) async fn placement(args: &PlacementArgs, format: OutputFormat) -> Result<(), Failure> {
    let client = admin(&args.admin)?;
    let (answer, text): (Value, fn(&Value) -> String) = match (&args.key, &args.plan) {
        (Some(key), _) => (client.json(&Ask::new(Method::GET, key_path(key)?)).await?, key_placement_text),
        (None, Some(change)) => (client.json(&plan_ask(change)?).await?, plan_text),
        (None, None) => (client.json(&Ask::new(Method::GET, "/v1/admin/placement")).await?, outline),
    };
    show(format, &answer, text)?;
    Ok(())
}

fn key_path(address: &KeyAddress) -> Result<String, Failure> {
    Ok(format!("/v1/admin/placement/{}/{}", address.namespace, url_path(&address.key).ok_or_else(|| no_path(&address.key))?))
}

fn key_placement_text(answer: &Value) -> String {
    let mut text = format!(
        "{}/{}: slot {}, epoch {}, {}\n",
        cell(&answer["ns"]),
        cell(&answer["key"]),
        cell(&answer["slot"]),
        cell(&answer["epoch"]),
        cell(&answer["phase"]),
    );
    if let Some(owner) = answer["owner"].as_str() {
        text.push_str(&format!("its writes are handed to {owner}\n"));
    }
    for (name, key) in [("replicas", "replicas"), ("moving to", "next")] {
        let replicas = answer[key].as_array().map(Vec::as_slice).unwrap_or_default();
        if !replicas.is_empty() {
            let rows: Vec<Vec<String>> = replicas.iter().map(|r| ["node", "region", "liveness"].map(|n| cell(&r[n])).to_vec()).collect();
            text.push_str(&format!("{name}\n{}", indented(&table(&["node", "region", "liveness"], &rows))));
        }
    }
    text
}

/// A change that `--plan` can be asked about: a cluster file, or one of the short forms.
fn plan_ask(change: &str) -> Result<Ask, Failure> {
    let path = Path::new(change);
    if path.exists() || change == "-" {
        return apply_ask(read_cluster_file(path)?, true, None);
    }
    let wrong = || {
        Failure::new(Exit::Usage, format!("{change:?} is neither a file nor a change"), "")
            .advise("Give a cluster file, or remove=NODE, capacity=NODE:N, add=REGION[/ZONE][:N], replicas=N.")
    };
    let (verb, what) = change.split_once('=').ok_or_else(wrong)?;
    if !matches!(verb, "remove" | "capacity" | "add" | "replicas") || what.is_empty() {
        return Err(wrong());
    }
    Ok(Ask::new(Method::GET, format!("/v1/admin/placement?plan={verb}={}", url_query(what.as_bytes()))))
}

fn plan_text(answer: &Value) -> String {
    if answer["changes"].is_array() { applied_text(answer) } else { moves_text(answer) }
}

/// What a change moves (rule P5), and to and from which nodes.
fn moves_text(plan: &Value) -> String {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let (moved, total) = (&plan["moved"], &plan["total"]);
    let mut text = format!(
        "moves {} of {} ({} of {} copies of keys); {} of {} slots change\n",
        units::bytes(count(&moved["bytes"])),
        units::bytes(count(&total["bytes"])),
        count(&moved["keys"]),
        count(&total["keys"]),
        count(&plan["slots_changed"]),
        count(&plan["slots_counted"]) + count(&plan["slots_estimated"]),
    );
    if plan["replicas"]["from"] != plan["replicas"]["to"] {
        text.push_str(&format!("replicas of a slot: {} -> {}\n", cell(&plan["replicas"]["from"]), cell(&plan["replicas"]["to"])));
    }
    if count(&plan["slots_estimated"]) > 0 {
        text.push_str(&format!("{} slots are not held by this daemon: their content is estimated\n", cell(&plan["slots_estimated"])));
    }
    let nodes = plan["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !nodes.is_empty() {
        let side = |amount: &Value| [cell(&amount["slots"]), cell(&amount["keys"]), units::bytes(count(&amount["bytes"]))];
        let row = |node: &Value| {
            let who = [cell(&node["node"]), cell(&node["region"])];
            who.into_iter().chain(side(&node["gains"])).chain(side(&node["loses"])).collect()
        };
        const HEADER: [&str; 8] = ["node", "region", "gains slots", "keys", "size", "loses slots", "keys", "size"];
        text.push_str(&table(&HEADER, &nodes.iter().map(row).collect::<Vec<_>>()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_file_or_one_of_the_short_forms() {
        assert!(plan_ask("remove=00000000000000000000000000000001").expect("a change").path.contains("plan=remove="));
        assert_eq!(plan_ask("add=eu-west/a:200").expect("a change").path, "/v1/admin/placement?plan=add=eu-west%2Fa%3A200");
        for wrong in ["nonsense", "drop=x", "remove="] {
            assert_eq!(plan_ask(wrong).expect_err("no change").exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn p5_a_plan_says_what_moves_and_what_is_estimated() {
        let amount = |slots: u64| json!({"slots": slots, "keys": slots * 10, "bytes": slots * 1024});
        let node = json!({"node": "(new)", "region": "us-west", "gains": amount(2), "loses": amount(0)});
        let plan = json!({
            "change": "add=us-west", "replicas": {"from": 2, "to": 3}, "moved": amount(2), "total": amount(8), "slots_changed": 2,
            "slots_counted": 3, "slots_estimated": 1, "nodes": [node],
        });
        let text = plan_text(&plan);
        assert!(text.starts_with("moves 2.0 KiB of 8.0 KiB (20 of 80 copies of keys); 2 of 4 slots change\n"), "{text}");
        assert!(text.contains("slot: 2 -> 3\n") && text.contains("1 slots are not held"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("(new)  us-west") && line.contains("2.0 KiB")), "{text}");
        let applied = json!({"dry_run": true, "changed": true, "revision": 1, "changes": [], "plan": plan});
        assert!(plan_text(&json!(applied)).contains("moves 2.0 KiB"));
    }

    #[test]
    fn an_expected_revision_travels_as_if_match() {
        let ask = apply_ask(String::new(), false, Some(7)).expect("a request");
        assert_eq!(ask.headers["if-match"], "\"7\"");
        assert_eq!(ask.path, "/v1/admin/apply");
    }

    #[test]
    fn members_show_who_answers_and_what_is_not_known() {
        let text =
            members_text(&json!([{"node": "aa", "region": "us-east", "zone": null, "me": true, "voter": true, "round_trip_ms": 74.96}]));
        assert!(text.contains("aa *"), "{text}");
        assert!(text.contains("75.0"), "{text}");
        assert!(text.contains(" - "), "{text}");
    }

    #[test]
    fn e5_status_tells_of_lapsed_peers_where_the_daemon_reports_on_replication() {
        let plain = json!({"replication": {"backlog": 3, "oldest_ms": 5}});
        assert!(status_text(&plain).contains("  backlog: 3\n"), "{}", status_text(&plain));
        let mut told = plain;
        told["replication_report"] = json!({"peers": [{"node": "aa", "region": "eu-west", "backlog": 0, "lapsed_since": 1}]});
        let text = status_text(&told);
        assert!(text.contains("lapsed") && !text.contains("backlog: 3"), "{text}");
    }

    #[test]
    fn q18_placement_names_the_owner_of_a_strong_key_and_status_has_its_report() {
        let key = json!({"ns": "strong", "key": "k", "slot": 7, "epoch": 2, "phase": "joint", "owner": "aa", "replicas": [], "next": []});
        assert_eq!(key_placement_text(&key), "strong/k: slot 7, epoch 2, joint\nits writes are handed to aa\n");
        assert!(!status_text(&json!({})).contains("strong keys"));
        assert!(status_text(&json!({"strong_report": {"keys": 3}})).contains("\nstrong keys\n  keys: 3"));
    }

    #[test]
    fn uptimes_keep_their_two_largest_units() {
        assert_eq!(uptime(59_000), "59 s");
        assert_eq!(uptime(61_000), "1 min 1 s");
        assert_eq!(uptime(3_660_000), "1 h 1 min");
        assert_eq!(uptime(90_000_000), "1 d 1 h");
    }
}
