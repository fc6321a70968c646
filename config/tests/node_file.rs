//! The node file: layers, strictness, rules between keys, and what errors say.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use isochrone_config::{AuthMode, Fault, Loaded, NodeSettings, Origin, Problems, Right, Span, reload_diff};

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn load(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Problems> {
    NodeSettings::parse(text, Path::new("node.toml"), pairs(env).into_iter(), &pairs(flags))
}

const REGION: &str = "node.region = \"us-east\"\n";

fn with_region(text: &str) -> Result<Loaded, Problems> {
    load(&format!("{REGION}{text}"), &[], &[])
}

fn complaint(text: &str) -> String {
    with_region(text).unwrap_err().to_string()
}

#[test]
fn a_region_is_all_that_has_to_be_given() {
    let settings = with_region("").unwrap().settings;
    assert_eq!(settings.node.region.as_str(), "us-east");
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.replication.clock_ahead_max, Span::millis(500));
    assert_eq!((settings.auth.mode, settings.http.tls, settings.peer.identity()), (None, None, None));
    let problems = load("", &[], &[]).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "node.toml: node.region: has no default and was not given; must be a name matching [a-z0-9][a-z0-9-]{0,62}, in quotes"
    );
}

#[test]
fn later_layers_win_and_each_value_tells_where_it_came_from() {
    let text = format!("{REGION}[http]\nthreads = 1\nlisten = \"127.0.0.1:1\"\nmax_connections = 5\n");
    let env = [("ISOCHRONE__HTTP__THREADS", "2"), ("ISOCHRONE__HTTP__LISTEN", "127.0.0.1:2"), ("PATH", "/bin"), ("ISOCHRONE_FENCE", "7")];
    let loaded = load(&text, &env, &[("http.threads", "3"), ("http.threads", "4")]).unwrap();
    let http = &loaded.settings.http;
    assert_eq!((http.threads, http.listen.port(), http.max_connections), (4, 2, 5));
    let origin = |key: &str| loaded.provenance.origin(key).to_string();
    assert_eq!(origin("http.threads"), "flag http.threads");
    assert_eq!(origin("http.listen"), "env ISOCHRONE__HTTP__LISTEN");
    assert_eq!(origin("http.max_connections"), "node.toml:5");
    assert_eq!(origin("http.header_bytes"), "default");
}

#[test]
fn c1_nothing_in_the_file_is_coerced() {
    for (line, value) in [
        ("http.threads = 1.5", "1.5"),
        ("http.threads = \"123\"", "\"123\""),
        ("http.threads = true", "true"),
        ("node.cluster = 7", "7"),
        ("emulation.enabled = \"true\"", "\"true\""),
        ("emulation.enabled = 1", "1"),
        ("peer.retry_budget = \"0.1\"", "\"0.1\""),
        ("limits.value_bytes = 1048576", "1048576"),
        ("limits.value_bytes = \"1048576\"", "\"1048576\""),
        ("limits.read_deadline = 2", "2"),
        ("peer.join = \"a:1\"", "\"a:1\""),
        ("log.format = \"JSON\"", "\"JSON\""),
        ("node.zone = 1979-05-27", "1979-05-27"),
    ] {
        let text = complaint(&format!("{line}\n"));
        let key = line.split(' ').next().unwrap();
        assert!(text.starts_with(&format!("node.toml:2: {key} = {value}: must be ")), "{line} gave {text}");
    }
}

#[test]
fn c1_the_environment_and_flags_are_text_read_by_the_kind_of_the_key() {
    let env = [
        ("ISOCHRONE__NODE__ZONE", "007"),
        ("ISOCHRONE__HTTP__THREADS", "7"),
        ("ISOCHRONE__PEER__RETRY_BUDGET", "0.25"),
        ("ISOCHRONE__EMULATION__ENABLED", "true"),
        ("ISOCHRONE__LIMITS__VALUE_BYTES", "1MiB"),
    ];
    let settings = load(REGION, &env, &[]).unwrap().settings;
    assert_eq!(settings.node.zone.unwrap().as_str(), "007");
    assert_eq!((settings.http.threads, settings.emulation.enabled), (7, true));
    for (key, value) in
        [("HTTP__THREADS", "1.5"), ("HTTP__THREADS", " 7"), ("HTTP__THREADS", ""), ("EMULATION__ENABLED", "1"), ("HTTP__THREADS", "+1")]
    {
        let name = format!("ISOCHRONE__{key}");
        let text = load(REGION, &[(&name, value)], &[]).unwrap_err().to_string();
        assert!(text.starts_with(&format!("env {name}: ")) && text.contains(&format!("{value:?}")), "{text}");
    }
}

#[test]
fn lists_and_tables_come_from_the_environment_too() {
    let hash = "ab".repeat(32);
    let tokens = format!("[{{ name = \"ci\", sha256 = \"{hash}\", rights = [{{ namespace = \"*\", allow = [\"read\"] }}] }}]");
    let identity = [("peer.ca", "ca"), ("peer.cert", "cert"), ("peer.key", "key")];
    for join in ["a:1, [::1]:2", "[\"a:1\", \"[::1]:2\"]"] {
        let env = [("ISOCHRONE__PEER__JOIN", join), ("ISOCHRONE__AUTH__TOKEN", &tokens), ("ISOCHRONE__AUTH__MODE", "tokens")];
        let settings = load(REGION, &env, &identity).unwrap().settings;
        assert_eq!(settings.peer.join, ["a:1", "[::1]:2"]);
        assert_eq!(settings.auth.mode, Some(AuthMode::Tokens));
        assert!(settings.auth.token[0].allows_everywhere(Right::Read));
    }
    let text = load(REGION, &[("ISOCHRONE__AUTH__TOKEN", "[{ name = 3 }]")], &[]).unwrap_err().to_string();
    assert!(
        text.contains("env ISOCHRONE__AUTH__TOKEN: auth.token[0].name = (hidden)") || text.contains("auth.token[0].name = 3"),
        "{text}"
    );
    assert!(text.contains("auth.token[0].sha256: has no default"), "{text}");
}

#[test]
fn c2_unknown_keys_are_told_with_the_nearest_known_one() {
    assert_eq!(complaint("[http]\nlisen = \"x\"\n"), "node.toml:3: http.lisen = \"x\": unknown key; did you mean http.listen?");
    assert_eq!(complaint("[htpp]\nlisten = 1\n"), "node.toml:2: htpp: unknown key; did you mean http?");
    assert_eq!(complaint("[http]\nregion = \"x\"\n"), "node.toml:3: http.region = \"x\": unknown key; did you mean node.region?");
    assert_eq!(complaint("colour = 1\n"), "node.toml:2: colour = 1: unknown key, and nothing known is near it");
    assert_eq!(complaint("\"http.listen\" = \"127.0.0.1:1\"\n").split(": ").nth(2), Some("unknown key; did you mean http.listen?"));
    let text = load(REGION, &[("ISOCHRONE__HTTP__LISEN", "x")], &[]).unwrap_err().to_string();
    assert_eq!(text, "env ISOCHRONE__HTTP__LISEN: http.lisen = \"x\": unknown key; did you mean ISOCHRONE__HTTP__LISTEN?");
    let text = load(REGION, &[("Isochrone__Http__Listen", "x")], &[]).unwrap_err().to_string();
    assert!(text.ends_with("did you mean ISOCHRONE__HTTP__LISTEN?"), "{text}");
    let text = load(REGION, &[], &[("htp.listen", "x")]).unwrap_err().to_string();
    assert_eq!(text, "flag htp.listen: htp.listen = \"x\": unknown key; did you mean http.listen?");
}

#[test]
fn c3_everything_wrong_is_told_at_once_in_the_order_of_the_lines() {
    let text = "[http]\nthreads = \"four\"\nlisten = \"localhost\"\n[store]\nsync_interval = \"51ms\"\n[nodes]\n";
    let problems = load(text, &[("ISOCHRONE__LOG__FORMAT", "xml")], &[("node.capacity", "0")]).unwrap_err();
    let told: Vec<(String, &str)> = problems.list().iter().map(|p| (p.origin.to_string(), p.key.as_str())).collect();
    let told: Vec<(&str, &str)> = told.iter().map(|(place, key)| (place.as_str(), *key)).collect();
    let expected = [
        ("node.toml", "node.region"),
        ("node.toml:2", "http.threads"),
        ("node.toml:3", "http.listen"),
        ("node.toml:5", "store.sync_interval"),
        ("node.toml:6", "nodes"),
        ("env ISOCHRONE__LOG__FORMAT", "log.format"),
        ("flag node.capacity", "node.capacity"),
    ];
    assert_eq!(told, expected);
    assert!(problems.to_string().contains("store.sync_interval = \"51ms\": must be a time from \"1ms\" to \"50ms\""));
}

#[test]
fn c3_syntax_errors_have_their_lines_and_do_not_hide_other_mistakes() {
    let problems = with_region("[http]\nlisten = = 1\nthreads = \"x\"\nthreads = 2\n").unwrap_err();
    let lines: Vec<String> = problems.list().iter().map(|p| p.origin.to_string()).collect();
    assert!(lines.contains(&"node.toml:3".to_owned()) && lines.contains(&"node.toml:4".to_owned()), "{problems}");
    let text = complaint("[http]\nthreads = 1\n[http]\nthreads = 2\n");
    assert!(text.contains("node.toml:4: not valid TOML: duplicate key"), "{text}");
}

#[test]
fn a_section_is_no_value_and_a_value_no_section() {
    assert!(complaint("http = 3\n").starts_with("node.toml:2: http = 3: must be a section: write [http]"));
    assert!(complaint("[[http]]\nthreads = 1\n").contains("must be a section"));
    assert!(complaint("[http.listen]\nport = 1\n").contains("http.listen"));
    assert!(complaint("[auth]\ntoken = 3\n").contains("auth.token = (hidden): must be at most 1024 tables"));
    assert!(complaint("[auth]\ntoken = [3]\n").contains("auth.token[0] = (hidden)"));
}

#[test]
fn c5_a_listener_that_others_can_reach_needs_authentication() {
    for key in ["http", "admin"] {
        for address in ["0.0.0.0:1234", "[::]:1234", "10.0.0.1:1234"] {
            let text = complaint(&format!("[{key}]\nlisten = \"{address}\"\n"));
            assert!(text.starts_with(&format!("node.toml:3: {key}.listen = \"{address}\": others can reach")), "{text}");
            assert!(text.contains("auth.mode = \"tokens\"") && text.contains("auth.mode = \"none\""), "{text}");
            for mode in ["tokens", "none"] {
                with_region(&format!("[{key}]\nlisten = \"{address}\"\n[auth]\nmode = \"{mode}\"\n")).unwrap();
            }
        }
        for address in ["127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            with_region(&format!("[{key}]\nlisten = \"{address}\"\n")).unwrap();
        }
    }
}

#[test]
fn rules_between_keys_name_both_of_them() {
    for (text, key, other) in [
        ("store.disk_bytes = \"64MiB\"", "store.disk_bytes", "store.evictable_bytes"),
        ("limits.value_bytes = \"64MiB\"", "peer.frame_bytes_max", "limits.value_bytes"),
        ("limits.batch_bytes_max = \"1GiB\"", "limits.body_bytes_in_flight", "limits.batch_bytes_max"),
        ("peer.reconnect_max = \"1ms\"", "peer.reconnect_max", "peer.reconnect_min"),
        ("replication.resend_max = \"10ms\"", "replication.resend_max", "replication.resend_min"),
        ("replication.repair_interval_max = \"1s\"", "replication.repair_interval_max", "replication.repair_interval_min"),
        ("store.log_bytes_max = \"512MiB\"", "store.log_bytes_max", "replication.hint_bytes_max"),
        ("replication.hint_bytes_max = \"2GiB\"", "store.log_bytes_max", "replication.hint_bytes_max"),
        ("replication.clock_ahead_max = \"50ms\"", "replication.clock_ahead_max", "replication.clock_ahead_alarm"),
        ("council.heartbeat = \"100ms\"\ncouncil.election_timeout = \"200ms\"", "council.election_timeout", "council.heartbeat"),
        ("strong.deadline = \"100ms\"", "strong.deadline", "strong.step"),
        ("strong.channel_queue_bytes = \"1MiB\"", "strong.channel_queue_bytes", "limits.value_bytes"),
        ("strong.store_queue_bytes = \"1MiB\"", "strong.store_queue_bytes", "limits.value_bytes"),
        (
            "limits.value_bytes = \"1MiB\"\npeer.frame_bytes_max = \"2MiB\"\nstrong.page_bytes = \"4MiB\"",
            "peer.frame_bytes_max",
            "strong.page_bytes",
        ),
        ("admin.listen = \"127.0.0.1:8080\"", "admin.listen", "http.listen"),
        ("peer.join = [\"a:1\"]", "peer.join", "peer.ca"),
        ("peer.advertise = \"0.0.0.0:1\"", "peer.advertise", "name or address"),
        ("http.tls.cert = \"x\"", "http.tls.cert", "http.tls.key"),
        ("peer.key = \"x\"", "peer.key", "peer.cert"),
        (
            "auth.token = [{ name = \"a\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\", rights = [] }]",
            "auth.token",
            "auth.mode",
        ),
    ] {
        let problems = with_region(&format!("{text}\n")).unwrap_err();
        let broken = problems.list().iter().any(|p| p.key == key && matches!(&p.fault, Fault::Rule(rule) if rule.contains(other)));
        assert!(broken, "{text} gave {problems}");
    }
}

#[test]
fn a_rule_is_silent_about_keys_that_are_wrong_already() {
    let problems = with_region("store.disk_bytes = \"1MiB\"\n").unwrap_err();
    assert_eq!(problems.list().len(), 1, "{problems}");
}

const TOKEN: &str =
    "[auth]\nmode = \"tokens\"\n[[auth.token]]\nname = \"ci\"\nrights = [{ namespace = \"data\", allow = [\"read\", \"write\"] }]\n";

#[test]
fn c4_a_secret_comes_from_its_own_file_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let hash = "cd".repeat(32);
    std::fs::write(dir.path().join("ci.sha256"), format!("{hash}\n")).unwrap();
    std::fs::write(&file, format!("{REGION}{TOKEN}sha256_file = \"ci.sha256\"\n")).unwrap();
    let loaded = NodeSettings::load(Some(&file), std::iter::empty(), &[]).unwrap();
    assert_eq!(loaded.settings.auth.token[0].sha256.as_bytes(), &[0xcd; 32]);
    let effective = loaded.effective();
    for shown in [effective.to_string(), effective.to_json().to_string(), format!("{loaded:?}")] {
        assert!(!shown.contains("cdcd"), "{shown}");
    }
    assert!(effective.to_string().contains("auth.token[0].sha256 = (hidden)"));
}

#[test]
fn c4_a_wrong_secret_is_not_repeated() {
    for line in ["sha256 = \"hunter2\"", "sha265 = \"hunter2\"", "sha256 = [\"hunter2\"]"] {
        let text = complaint(&format!("{TOKEN}{line}\n"));
        assert!(text.contains("node.toml:7: auth.token[0].sha2") && text.contains("(hidden)") && !text.contains("hunter2"), "{text}");
    }
    let text = load(REGION, &[("ISOCHRONE__AUTH__TOKEN", "hunter2")], &[]).unwrap_err().to_string();
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_secret_in_two_forms_or_in_no_file_is_refused() {
    let hash = "cd".repeat(32);
    let text = complaint(&format!("{TOKEN}sha256 = \"{hash}\"\nsha256_file = \"/nowhere/at/all\"\n"));
    assert!(text.contains("give either sha256 or sha256_file, not both"), "{text}");
    assert!(text.contains("auth.token[0].sha256_file = \"/nowhere/at/all\": cannot be read: No such file"), "{text}");
}

#[test]
fn two_tokens_of_one_name_or_one_hash_are_refused() {
    let one = |name: &str, digit: &str| format!("[[auth.token]]\nname = \"{name}\"\nsha256 = \"{}\"\nrights = []\n", digit.repeat(64));
    let text = complaint(&format!("auth.mode = \"tokens\"\n{}{}", one("a", "1"), one("a", "1")));
    assert!(text.contains("node.toml:8: auth.token[1].name = \"a\": auth.token[0].name has that value already"), "{text}");
    assert!(text.contains("node.toml:9: auth.token[1].sha256 = (hidden): auth.token[0].sha256 has that value already"), "{text}");
}

#[test]
fn relative_paths_count_from_the_directory_of_the_file() {
    let text = format!("{REGION}node.data_dir = \"data\"\n");
    let path = Path::new("/etc/isochrone/node.toml");
    let loaded = NodeSettings::parse(&text, path, std::iter::empty(), &[]).unwrap();
    assert_eq!(loaded.settings.node.data_dir, Path::new("/etc/isochrone/data"));
    let loaded = NodeSettings::parse(&text, path, pairs(&[("ISOCHRONE__NODE__DATA_DIR", "here")]).into_iter(), &[]).unwrap();
    assert_eq!(loaded.settings.node.data_dir, Path::new("here"));
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let why = |file: &Path| NodeSettings::load(Some(file), std::iter::empty(), &[]).unwrap_err().to_string();
    assert!(why(&file).contains("cannot be read: No such file"));
    std::fs::write(&file, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert!(why(&file).contains("line 2 is not UTF-8"));
    std::fs::write(&file, vec![b'#'; 2 << 20]).unwrap();
    assert!(why(&file).contains("longer than 1048576 bytes"));
}

#[test]
fn show_tells_every_key_with_its_origin() {
    let text = format!("{REGION}{TOKEN}sha256 = \"{}\"\n", "ab".repeat(32));
    let loaded = load(&text, &[("ISOCHRONE__LOG__FORMAT", "json")], &[("http.threads", "2")]).unwrap();
    let effective = loaded.effective();
    let shown = effective.to_string();
    let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    for (start, origin) in [
        ("http.listen = \"127.0.0.1:8080\"", "# default"),
        ("log.format = \"json\"", "# env ISOCHRONE__LOG__FORMAT"),
        ("http.threads = 2", "# flag http.threads"),
        ("node.region = \"us-east\"", "# node.toml:1"),
        ("auth.token[0].name = \"ci\"", "# node.toml:5"),
        ("auth.token[0].rights[0].allow = [\"read\", \"write\"]", "# node.toml:6"),
        ("# node.zone is unset", "# default"),
    ] {
        assert!(line(start).ends_with(origin), "{start}: {shown}");
    }
    for key in isochrone_config::NODE.keys() {
        assert!(effective.settings().iter().any(|s| s.key == key.path || s.key.starts_with(&format!("{}[", key.path))), "{}", key.path);
    }
    let json = effective.to_json();
    let find = |key: &str| json.as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    let region = serde_json::json!({"key": "node.region", "value": "us-east", "source": "file", "file": "node.toml", "line": 1, "reload": "restart"});
    assert_eq!(find("node.region"), region);
    assert_eq!(find("auth.token[0].sha256")["value"], serde_json::json!({ "hidden": true }));
    assert_eq!(find("log.format")["name"], "ISOCHRONE__LOG__FORMAT");
    assert_eq!(find("node.zone")["value"], serde_json::Value::Null);
}

#[test]
fn the_typed_settings_are_what_show_tells() {
    let loaded = with_region("http.threads = 0x10\nlimits.value_bytes = \"1024KiB\"\npeer.retry_budget = 1\n").unwrap();
    assert_eq!((loaded.settings.http.threads, loaded.provenance.value("http.threads").as_deref()), (16, Some("16")));
    assert_eq!(loaded.provenance.value("limits.value_bytes").as_deref(), Some("\"1MiB\""));
    assert_eq!((loaded.settings.peer.retry_budget, loaded.provenance.value("peer.retry_budget").as_deref()), (1.0, Some("1.0")));
    assert_eq!(loaded.provenance.origin("node.zone"), Origin::Default);
}

#[test]
fn a_reload_tells_what_changes_now_and_what_needs_a_restart() {
    let old = with_region("").unwrap();
    let new =
        load(&format!("\n\n{REGION}{TOKEN}sha256 = \"{}\"\n[log]\nfilter = \"debug\"\n[http]\nthreads = 2\n", "ab".repeat(32)), &[], &[])
            .unwrap();
    let diff = reload_diff(&old, &new);
    let keys = |changes: &[isochrone_config::KeyChange]| changes.iter().map(|change| change.key).collect::<Vec<_>>();
    assert_eq!(keys(&diff.live), ["auth.token", "log.filter"]);
    assert_eq!(keys(&diff.restart), ["http.threads", "auth.mode"]);
    assert_eq!((diff.restart[0].from.as_deref(), diff.restart[0].to.as_deref()), (Some("0"), Some("2")));
    assert!(!format!("{diff:?}").contains("abab"));
    // The same settings on other lines are no change.
    let moved = load(&format!("# a comment\n{REGION}"), &[], &[]).unwrap();
    assert_eq!(reload_diff(&old, &moved), isochrone_config::ReloadDiff::default());
}

#[test]
fn emulated_links_are_read_with_their_decimals() {
    let text = "[[emulation.links]]\naddress = \"127.0.0.1:7947\"\nregion = \"eu-west\"\none_way = \"37.5ms\"\nloss = 0.01\n";
    let link = with_region(text).unwrap().settings.emulation.links.remove(0);
    assert_eq!((link.one_way, link.jitter, link.loss), (Span::micros(37_500), Span::millis(0), 0.01));
}
