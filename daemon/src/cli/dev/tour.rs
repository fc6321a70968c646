//! What `dev` says when all regions are ready.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::super::cluster::matrix_text;
use super::super::output::table;
use super::child::Recipe;
use super::delays::OneWayMs;
use super::directory::Directory;
use super::ports::{Ports, loopback};
use super::shown;

/// One region, as the contract's ready line shows it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Region {
    region: &'static str,
    http: String,
    admin: String,
    pid: u32,
    data: String,
}

#[derive(Serialize)]
struct ReadyLine<'a> {
    ready: bool,
    regions: &'a [Region],
    one_way_ms: &'a BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
}

impl Region {
    /// A region as it was started.
    pub(super) fn new(recipe: &Recipe, ports: Ports, pid: u32, directory: &Directory) -> Self {
        let url = |port| format!("http://{}", loopback(port));
        let data = shown(&directory.region(recipe.region));
        Self { region: recipe.region, http: url(ports.http), admin: url(ports.admin), pid, data }
    }
}

/// The one line of `dev -o json`.
pub(super) fn json_line(regions: &[Region], one_way_ms: &OneWayMs) -> String {
    serde_json::to_string(&ReadyLine { ready: true, regions, one_way_ms }).expect("strings and finite numbers are JSON")
}

/// For people: where the regions are, how far apart, and what to try.
pub(super) fn text(regions: &[Region], one_way_ms: &OneWayMs) -> String {
    let row = |r: &Region| vec![r.region.to_owned(), r.http.clone(), r.admin.clone(), r.pid.to_string(), r.data.clone()];
    let listed = table(&["region", "http", "admin", "pid", "data"], &regions.iter().map(row).collect::<Vec<_>>());
    let delays = matrix_text(&json!(one_way_ms));
    format!(
        "{} regions are ready.\n\n{listed}\none-way delays, ms\n{delays}\ntry\n{}\nCtrl-C stops all of it. Data stays; `--fresh` starts anew.",
        regions.len(),
        curl_lines(regions).iter().map(|line| format!("  {line}\n")).collect::<String>(),
    )
}

/// Requests that work as they stand, in this order, however fast they are pasted: what is written in one region takes its time
/// to the next, so reads of what another region took wait for it. Two regions add to one counter and to one set, and nothing is lost. A strong key needs no
/// wait: every region reads what was written last, and of two writes that both want to be the first, the second is refused (412).
fn curl_lines(regions: &[Region]) -> [String; 13] {
    let (first, second, last) = (&regions[0], &regions[1], &regions[regions.len() - 1]);
    [
        format!("curl -X PUT -H 'Content-Type: text/plain' --data-binary 'hello from {}' {}/v1/kv/data/greeting", first.region, first.http),
        format!("sleep 0.5; curl -i {}/v1/kv/data/greeting", second.http),
        format!("curl -d '{{\"add\": 2}}' {}/v1/counters/data/visits", first.http),
        format!("curl -d '{{\"add\": 3}}' {}/v1/counters/data/visits", last.http),
        format!("sleep 0.5; curl {}/v1/counters/data/visits", second.http),
        format!("curl -d '{{\"add\": [\"ann\", \"bo\"]}}' {}/v1/sets/data/guests", first.http),
        format!("sleep 0.5; curl -d '{{\"add\": [\"cy\"], \"remove\": [\"bo\"]}}' {}/v1/sets/data/guests", last.http),
        format!("curl -X PUT --data-binary 'gone in a minute' '{}/v1/kv/cache/note?ttl=60s'", last.http),
        format!("curl '{}/v1/kv/data?prefix=gr'", last.http),
        format!("curl -i -X PUT -H 'If-None-Match: *' --data-binary '{}' {}/v1/kv/strong/leader", first.region, first.http),
        format!("curl -i -X PUT -H 'If-None-Match: *' --data-binary '{}' {}/v1/kv/strong/leader", last.region, last.http),
        format!("curl -i {}/v1/kv/strong/leader", second.http),
        format!("curl {}/v1/admin/members", first.admin),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::delays::one_way_ms;
    use super::*;

    fn regions() -> Vec<Region> {
        let region = |(index, &region): (usize, &&'static str)| Region {
            region,
            http: format!("http://127.0.0.1:808{index}"),
            admin: format!("http://127.0.0.1:909{index}"),
            pid: 4711,
            data: format!("/data/{region}"),
        };
        super::super::delays::regions(3).iter().enumerate().map(region).collect()
    }

    #[test]
    fn the_ready_line_is_the_contracts() {
        let line = json_line(&regions(), &one_way_ms(3, 1.0));
        assert!(!line.contains('\n'));
        assert!(
            line.starts_with(
                r#"{"ready":true,"regions":[{"region":"us-east","http":"http://127.0.0.1:8080","admin":"http://127.0.0.1:9090","pid":4711,"data":"/data/us-east"},"#
            ),
            "{line}"
        );
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["one_way_ms"]["us-east"]["eu-west"], 37.5);
    }

    #[test]
    fn people_get_urls_delays_and_lines_to_try() {
        let text = text(&regions(), &one_way_ms(3, 1.0));
        assert_eq!(text.lines().filter(|line| line.contains("curl ")).count(), 13);
        assert!(text.contains(r#"curl -d '{"add": 2}' http://127.0.0.1:8080/v1/counters/data/visits"#), "{text}");
        assert!(text.contains("116.0"), "{text}");
        assert!(text.contains("http://127.0.0.1:8082"), "{text}");
    }
}
