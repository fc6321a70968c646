//! How the strong path stands, as `status` shows it.

use serde_json::Value;

use super::output::cell;
use super::units;

/// What is wrong first, then how operations went, slots, moves, and what waits to be forgotten.
pub(super) fn text(report: &Value) -> String {
    let concerns = report["concerns"].as_array().into_iter().flatten();
    let mut text: String = concerns.map(|concern| format!("! {}\n", cell(concern))).collect();
    let bytes = report["bytes"].as_u64().map_or_else(|| "-".to_owned(), units::bytes);
    text.push_str(&format!("keys: {} ({bytes}), of which {} wait to be forgotten\n", cell(&report["keys"]), cell(&report["dead_keys"])));
    text.push_str(&operations_text(&report["operations"]));
    text.push_str(&format!("slots owned here: {}\n", cell(&report["slots_owned"])));
    text.push_str(&moves_text(report));
    text
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn operations_text(operations: &Value) -> String {
    let [read, prepared, warm, granted, owner] = ["read", "prepared", "warm", "granted", "owner"].map(|name| count(&operations[name]));
    let (short, writes) = (warm + granted, prepared + warm + granted + owner);
    format!(
        "reads: {read}\nwrites: {writes}{}\nnothing happened (503): {}, outcome unknown (504): {}\n",
        if writes == 0 {
            String::new()
        } else {
            format!(" ({:.1} % in one round trip here, {owner} at the slot's owner)", short as f64 / writes as f64 * 100.0)
        },
        count(&operations["nothing_happened"]),
        count(&operations["outcome_unknown"]),
    )
}

fn moves_text(report: &Value) -> String {
    let joint = count(&report["slots_joint"]);
    let moves = &report["moves"];
    match (joint, moves.is_null()) {
        (0, _) => "slots moving: 0\n".to_owned(),
        (_, true) => format!("slots moving: {joint}; the council's leader drives them\n"),
        (_, false) => {
            let (listed, certified) = (count(&moves["keys_listed"]), count(&moves["keys_certified"]));
            format!("slots moving: {joint}; {certified} of {listed} keys listed so far are certified\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn q14_a_report_tells_ways_moves_and_what_delays_forgetting() {
        let operations =
            json!({"read": 4, "prepared": 1, "warm": 5, "granted": 2, "owner": 2, "nothing_happened": 3, "outcome_unknown": 1});
        let mut report = json!({
            "concerns": ["look here"], "keys": 9, "bytes": 2048, "dead_keys": 2, "slots_owned": 7, "slots_joint": 5,
            "moves": {"slots": 3, "keys_listed": 80, "keys_certified": 20}, "operations": operations,
        });
        let told = text(&report);
        assert!(told.starts_with("! look here\nkeys: 9 (2.0 KiB), of which 2 wait to be forgotten\n"), "{told}");
        assert!(told.contains("writes: 10 (70.0 % in one round trip here, 2 at the slot's owner)\n"), "{told}");
        assert!(told.contains("nothing happened (503): 3, outcome unknown (504): 1\n"), "{told}");
        assert!(told.ends_with("slots moving: 5; 20 of 80 keys listed so far are certified\n"), "{told}");
        report["moves"] = Value::Null;
        assert!(text(&report).ends_with("slots moving: 5; the council's leader drives them\n"));
    }

    #[test]
    fn a_daemon_that_did_nothing_yet_has_a_short_report() {
        let told = text(&json!({"keys": 0, "bytes": 0, "dead_keys": 0, "slots_owned": 0}));
        assert!(told.contains("writes: 0\n") && told.contains("slots moving: 0\n"), "{told}");
    }
}
