//! The operator's side.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::Full;
use isochrone_edge::{
    Admin, AdminListener, Applied, ApplyRequest, Auth, Away, Check, CopyStream, CouncilView, Divergence, EdgeLimits, KeyPlacement,
    ListenerOptions, MemberView, Operator, OperatorRefusal, PeerReplication, PlacementSummary, Reloaded, RepairProgress, RepairRequest,
    ReplicaView, ReplicationReport, ReplicationView, Right, RoundTripsView, Status, StoreView, StrongOperations, StrongReport,
};
use isochrone_ident::{Key, Namespace, NodeId};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::model::Answer;
use crate::rights::token;

#[derive(Default)]
struct Daemon {
    is_unready: bool,
    emulation: Option<Mutex<Value>>,
    replication: Option<ReplicationReport>,
    strong: Option<StrongReport>,
    repair: Option<Vec<RepairProgress>>,
    done: Mutex<Vec<String>>,
}

impl Daemon {
    fn note(&self, what: impl Into<String>) {
        self.done.lock().unwrap().push(what.into());
    }
}

fn member() -> MemberView {
    MemberView {
        node: NodeId(1).to_string(),
        region: "us-east".into(),
        zone: None,
        address: "127.0.0.1:7946".into(),
        liveness: "alive".into(),
        me: true,
        voter: true,
        capacity: 100,
        incarnation: 1,
        round_trip_ms: None,
        backlog: None,
    }
}

impl Operator for Daemon {
    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn checks(&self) -> Vec<Check> {
        let check = |name: &str, ok| Check { name: name.into(), ok, detail: "seen".into() };
        vec![check("store", true), check("council", !self.is_unready)]
    }

    fn status(&self) -> Status {
        Status {
            cluster: "test".into(),
            node: NodeId(1).to_string(),
            region: "us-east".into(),
            zone: None,
            version: "0.1.0".into(),
            incarnation: 1,
            uptime_ms: 5,
            ready: !self.is_unready,
            checks: self.checks(),
            members: self.members(),
            round_trips: self.round_trips(),
            council: CouncilView::default(),
            placement: PlacementSummary::default(),
            replication: ReplicationView::default(),
            store: StoreView::default(),
        }
    }

    fn members(&self) -> Vec<MemberView> {
        vec![member()]
    }

    fn round_trips(&self) -> RoundTripsView {
        RoundTripsView::default()
    }

    fn placement(&self) -> Value {
        json!({ "epoch": 1 })
    }

    fn plan(&self, change: &str) -> Result<Value, OperatorRefusal> {
        match change.split_once('=') {
            Some(("add", place)) => Ok(json!({ "change": { "add": place }, "moved": { "slots": 1365 } })),
            Some(("remove", _)) => Err(OperatorRefusal::NotFound("no such member".into())),
            _ => Err(OperatorRefusal::Invalid("no such change".into())),
        }
    }

    fn placement_of(&self, ns: &Namespace, key: &Key) -> Result<KeyPlacement, OperatorRefusal> {
        if ns.as_str() != "data" {
            return Err(OperatorRefusal::NotFound("no such namespace".into()));
        }
        let replicas = vec![ReplicaView { node: NodeId(1).to_string(), region: "us-east".into(), liveness: "alive".into() }];
        Ok(KeyPlacement {
            ns: ns.to_string(),
            key: key.to_string(),
            slot: 1,
            epoch: 1,
            phase: "stable".into(),
            replicas,
            next: Vec::new(),
            owner: None,
        })
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn cluster_file(&self) -> (String, u64) {
        ("# empty\n".into(), 7)
    }

    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<Applied, OperatorRefusal>> {
        Box::pin(async move {
            if let Some(expected) = request.expected_revision.filter(|expected| *expected != 7) {
                return Err(OperatorRefusal::Revision { current: 7, expected });
            }
            if request.text.contains("bad") {
                return Err(OperatorRefusal::Invalid("line 1: bad".into()));
            }
            self.note(format!("apply {}", request.dry_run));
            Ok(Applied { revision: 8, changed: true, dry_run: request.dry_run, changes: vec!["+ namespace".into()], plan: None })
        })
    }

    fn remove_member(&self, node: NodeId, is_lost: bool) -> BoxFuture<'_, Result<(), OperatorRefusal>> {
        Box::pin(async move {
            self.note(format!("remove {node}{}", if is_lost { " as lost" } else { "" }));
            if node == NodeId(1) { Err(OperatorRefusal::Conflict("the last member".into())) } else { Ok(()) }
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, OperatorRefusal>> {
        Box::pin(async { Ok(Reloaded { changed: vec!["log.level".into()], restart_needed: Vec::new() }) })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), OperatorRefusal>> {
        self.note("leave");
        Box::pin(async { Ok(()) })
    }

    fn strong(&self) -> Result<StrongReport, OperatorRefusal> {
        self.strong.clone().ok_or_else(|| OperatorRefusal::NotBuilt("a report on strong keys".into()))
    }

    fn replication(&self) -> Result<ReplicationReport, OperatorRefusal> {
        self.replication.clone().ok_or_else(|| OperatorRefusal::NotBuilt("a report on replication".into()))
    }

    fn repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<watch::Receiver<RepairProgress>, OperatorRefusal>> {
        Box::pin(async move {
            let asked = request.namespace.map_or_else(|| "all".to_owned(), |ns| ns.to_string());
            if asked == "nowhere" {
                return Err(OperatorRefusal::NotFound("no such namespace".into()));
            }
            self.note(format!("repair {asked}"));
            let steps = self.repair.clone().ok_or_else(|| OperatorRefusal::NotBuilt("a repair".into()))?;
            let (tell, told) = watch::channel(RepairProgress::default());
            tokio::spawn(async move {
                for step in steps {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    tell.send_replace(step);
                }
            });
            Ok(told)
        })
    }

    fn emulation(&self) -> Option<Value> {
        self.emulation.as_ref().map(|state| state.lock().unwrap().clone())
    }

    fn set_emulation(&self, wanted: Value) -> Result<Value, OperatorRefusal> {
        let state = self.emulation.as_ref().ok_or_else(|| OperatorRefusal::NotFound("off".into()))?;
        *state.lock().unwrap() = wanted.clone();
        Ok(wanted)
    }
}

fn admin_of(daemon: &Arc<Daemon>, auth: Auth) -> Admin {
    let metrics = Arc::new(|| "isochrone_up 1\n".to_owned());
    Admin::new(Arc::clone(daemon) as Arc<dyn Operator>, Arc::new(auth), EdgeLimits::default(), metrics)
}

async fn ask(admin: &Admin, method: &str, path: &str, fields: &[(&str, &str)], body: &'static str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    Answer::of(admin.handle(request.body(Full::new(Bytes::from(body))).unwrap()).await).await
}

async fn get(admin: &Admin, path: &str) -> Answer {
    ask(admin, "GET", path, &[], "").await
}

#[tokio::test]
async fn health_says_what_is_wrong() {
    let well = admin_of(&Arc::default(), Auth::none());
    assert_eq!((get(&well, "/livez").await.status, get(&well, "/readyz").await.text()), (200, "ok\n"));
    assert_eq!(get(&well, "/readyz?verbose").await.text(), "[+]store ok: seen\n[+]council ok: seen\nok\n");
    let ill = admin_of(&Arc::new(Daemon { is_unready: true, ..Daemon::default() }), Auth::none());
    for path in ["/readyz", "/healthz"] {
        let answer = get(&ill, path).await;
        assert_eq!((answer.status, answer.text()), (503, "[-]council failed: seen\nnot ready\n"));
    }
    assert_eq!(get(&ill, "/livez").await.status, 200, "a daemon that is not ready need not be restarted");
}

#[tokio::test]
async fn what_is_open_needs_no_token_and_the_rest_needs_admin_on_everything() {
    let tokens = vec![
        token("root", None, &[Right::Admin]),
        token("data-admin", Some("data"), &[Right::Admin]),
        token("reader", None, &[Right::Read]),
    ];
    let admin = admin_of(&Arc::default(), Auth::tokens(tokens));
    for path in ["/", "/metrics", "/livez", "/readyz", "/healthz", "/problems/forbidden"] {
        assert_eq!(get(&admin, path).await.status, 200, "{path}");
    }
    for path in ["/v1/admin/status", "/v1/admin/members", "/v1/admin/config"] {
        assert_eq!(get(&admin, path).await.problem(), "unauthenticated", "{path}");
        for (token, status) in [("root", 200), ("data-admin", 403), ("reader", 403)] {
            let answer = ask(&admin, "GET", path, &[("authorization", &format!("Bearer {token}"))], "").await;
            assert_eq!(answer.status, status, "{token} {path}");
        }
    }
    assert_eq!(ask(&admin, "POST", "/v1/admin/leave", &[], "").await.status, 401);
}

#[tokio::test]
async fn an_operator_sees_the_cluster() {
    let admin = admin_of(&Arc::default(), Auth::none());
    let status: Status = serde_json::from_slice(&get(&admin, "/v1/admin/status").await.body).unwrap();
    assert_eq!(status.members, [member()]);
    assert_eq!(get(&admin, "/v1/admin/members").await.json()["members"][0]["region"], "us-east");
    assert_eq!(get(&admin, "/v1/admin/placement").await.json()["epoch"], 1);
    let plan = get(&admin, "/v1/admin/placement?plan=add=eu-west%2Fa%3A200").await.json();
    assert_eq!((&plan["change"]["add"], &plan["moved"]["slots"]), (&json!("eu-west/a:200"), &json!(1365)));
    assert_eq!(get(&admin, "/v1/admin/placement?plan=remove=7").await.problem(), "no-such-thing");
    assert_eq!(get(&admin, "/v1/admin/placement?plan=nonsense").await.problem(), "invalid-document");
    assert_eq!(get(&admin, "/v1/admin/placement?plann=add=x").await.problem(), "malformed");
    assert_eq!(get(&admin, "/v1/admin/placement/data/a/b%20c").await.json()["key"], "a/b c");
    assert_eq!(get(&admin, "/v1/admin/placement/none/a").await.problem(), "no-such-thing");
    assert!(get(&admin, "/v1/admin/round-trips").await.json()["round_trip_ms"].is_object());
    assert_eq!(get(&admin, "/metrics").await.text(), "isochrone_up 1\n");
    assert_eq!(get(&admin, "/v1/admin/nothing").await.problem(), "no-such-route");
    assert_eq!(get(&admin, "/v1/admin/reload").await.field("allow"), "POST");
}

#[tokio::test]
async fn a_cluster_file_is_applied_against_the_revision_it_was_made_for() {
    let daemon = Arc::<Daemon>::default();
    let admin = admin_of(&daemon, Auth::none());
    let current = get(&admin, "/v1/admin/apply").await;
    assert_eq!((current.text(), current.field("etag")), ("# empty\n", "\"7\""));
    let dry = ask(&admin, "POST", "/v1/admin/apply?dry_run=true", &[("if-match", "\"7\"")], "x = 1").await;
    assert_eq!((dry.status, &dry.json()["dry_run"]), (200, &json!(true)));
    assert_eq!(ask(&admin, "POST", "/v1/admin/apply", &[], "x = 1").await.field("etag"), "\"8\"");
    assert_eq!(*daemon.done.lock().unwrap(), ["apply true", "apply false"]);
    assert_eq!(ask(&admin, "POST", "/v1/admin/apply", &[("if-match", "\"6\"")], "").await.problem(), "revision-mismatch");
    assert_eq!(ask(&admin, "POST", "/v1/admin/apply", &[("if-match", "6")], "").await.problem(), "malformed");
    assert_eq!(ask(&admin, "POST", "/v1/admin/apply", &[], "bad").await.problem(), "invalid-document");
}

#[tokio::test]
async fn members_are_removed_and_the_daemon_reloads_and_leaves() {
    let daemon = Arc::<Daemon>::default();
    let admin = admin_of(&daemon, Auth::none());
    let path = |node: u128| format!("/v1/admin/members/{}", NodeId(node));
    assert_eq!(ask(&admin, "DELETE", &path(2), &[], "").await.status, 204);
    assert_eq!(ask(&admin, "DELETE", &path(1), &[], "").await.problem(), "conflict");
    assert_eq!(ask(&admin, "DELETE", "/v1/admin/members/x", &[], "").await.problem(), "malformed");
    assert_eq!(ask(&admin, "DELETE", &format!("{}?lost=true", path(3)), &[], "").await.status, 204);
    assert!(daemon.done.lock().unwrap().contains(&format!("remove {} as lost", NodeId(3))));
    assert_eq!(ask(&admin, "POST", "/v1/admin/reload", &[], "").await.json()["changed"][0], "log.level");
    assert_eq!(ask(&admin, "POST", "/v1/admin/leave", &[], "").await.status, 204);
    assert!(daemon.done.lock().unwrap().contains(&"leave".to_owned()));
}

#[tokio::test]
async fn a_page_on_the_web_cannot_make_the_daemon_leave() {
    let daemon = Arc::<Daemon>::default();
    let admin = admin_of(&daemon, Auth::none());
    let fields = [("host", "127.0.0.1:9090"), ("origin", "http://evil.example")];
    assert_eq!(ask(&admin, "POST", "/v1/admin/leave", &fields, "").await.problem(), "cross-origin");
    assert!(daemon.done.lock().unwrap().is_empty());
}

fn progress(slots_done: u64) -> RepairProgress {
    RepairProgress { slots_done, slots: 9, done: slots_done == 9, ..RepairProgress::default() }
}

#[tokio::test(start_paused = true)]
async fn a_repair_tells_how_far_it_is_until_it_is_done() {
    let daemon = Arc::new(Daemon { repair: Some((1..=9).map(progress).collect()), ..Daemon::default() });
    let admin = admin_of(&daemon, Auth::none());
    let answer = ask(&admin, "POST", "/v1/admin/repair", &[], r#"{"namespace": "data"}"#).await;
    assert_eq!((answer.status, answer.field("content-type")), (200, "application/x-ndjson"));
    let lines: Vec<RepairProgress> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() > 2 && lines.len() < 9, "a line now and then, not one a step: {}", lines.len());
    assert!(lines.windows(2).all(|pair| pair[0].slots_done < pair[1].slots_done));
    assert_eq!(lines.last(), Some(&progress(9)));
    ask(&admin, "POST", "/v1/admin/repair", &[], "").await;
    assert_eq!(*daemon.done.lock().unwrap(), ["repair data", "repair all"]);
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_breaks_off_says_so() {
    let daemon = Arc::new(Daemon { repair: Some(vec![progress(1)]), ..Daemon::default() });
    let answer = ask(&admin_of(&daemon, Auth::none()), "POST", "/v1/admin/repair", &[], "").await;
    let last: Value = serde_json::from_str(answer.text().lines().last().unwrap()).unwrap();
    assert_eq!((&last["done"], &last["problem"]["type"]), (&json!(false), &json!("/problems/internal")));
}

#[tokio::test]
async fn a_repair_that_makes_no_sense_does_not_begin() {
    let daemon = Arc::<Daemon>::default();
    let admin = admin_of(&daemon, Auth::none());
    for body in ["[]", "{", r#"{"ns": "data"}"#, r#"{"namespace": "No!"}"#, r#"{"namespace": 1}"#] {
        assert_eq!(ask(&admin, "POST", "/v1/admin/repair", &[], body).await.problem(), "malformed", "{body}");
    }
    assert_eq!(ask(&admin, "POST", "/v1/admin/repair", &[], r#"{"namespace": "nowhere"}"#).await.problem(), "no-such-thing");
    assert_eq!(get(&admin, "/v1/admin/repair").await.field("allow"), "POST");
    assert!(daemon.done.lock().unwrap().is_empty());
    assert_eq!(ask(&admin, "POST", "/v1/admin/repair", &[], "").await.problem(), "not-built");
}

fn troubled() -> ReplicationReport {
    let peer = |node: &str| PeerReplication { node: node.into(), region: "eu-west".into(), ..PeerReplication::default() };
    ReplicationReport {
        peers: vec![
            peer("quick"),
            PeerReplication { backlog: 7, oldest_ms: Some(42_000), ..peer("slow") },
            PeerReplication { lapsed_since: Some(1_700_000_000_000), ..peer("lapsed") },
            PeerReplication { refusal: Some("its clock is 3 s ahead".into()), ..peer("refusing") },
        ],
        divergence: vec![Divergence { peer: "slow".into(), region: "eu-west".into(), slot: 3, keys: 5 }],
        copies: isochrone_edge::CopiesView {
            streams: vec![CopyStream { node: "mute".into(), region: "ap-south".into(), age_ms: None }],
            ..Default::default()
        },
        under_replicated_keys: 11,
        away: vec![Away { node: "gone".into(), seconds: 90 }],
        ..ReplicationReport::default()
    }
}

#[tokio::test]
async fn a_report_on_strong_keys_names_the_replica_that_delays_forgetting() {
    let waits = ReplicaView { node: NodeId(2).to_string(), region: "eu-west".into(), liveness: "down".into() };
    let operations = StrongOperations { warm: 3, prepared: 1, ..StrongOperations::default() };
    let strong = StrongReport { dead_keys: 5, forgetting_waits_for: vec![waits], operations, ..StrongReport::default() };
    let admin = admin_of(&Arc::new(Daemon { strong: Some(strong), ..Daemon::default() }), Auth::none());
    let report = get(&admin, "/v1/admin/strong").await.json();
    assert_eq!((&report["dead_keys"], &report["operations"]["warm"], &report["moves"]), (&json!(5), &json!(3), &Value::Null));
    assert!(report["concerns"][0].as_str().unwrap().contains("eu-west"), "{report}");
    assert_eq!(get(&admin_of(&Arc::default(), Auth::none()), "/v1/admin/strong").await.problem(), "not-built");
}

#[tokio::test]
async fn a_report_on_replication_says_first_what_is_wrong() {
    let admin = admin_of(&Arc::new(Daemon { replication: Some(troubled()), ..Daemon::default() }), Auth::none());
    let report: ReplicationReport = serde_json::from_slice(&get(&admin, "/v1/admin/replication").await.body).unwrap();
    let words = [
        "11 keys have fewer replicas",
        "slow (eu-west), the oldest for 42 s",
        "lapsed (eu-west)",
        "refusing (eu-west) refuses",
        "gone has",
        "5 keys differed (slots: 1)",
        "mute (ap-south)",
    ];
    assert_eq!(report.concerns.len(), words.len(), "{:?}", report.concerns);
    for (concern, word) in report.concerns.iter().zip(words) {
        assert!(concern.contains(word), "{word}: {concern}");
    }
    assert_eq!(ReplicationReport { concerns: Vec::new(), ..report }, troubled());
    let well = admin_of(&Arc::new(Daemon { replication: Some(ReplicationReport::default()), ..Daemon::default() }), Auth::none());
    assert_eq!(get(&well, "/v1/admin/replication").await.json()["concerns"], json!([]));
    assert_eq!(get(&admin_of(&Arc::default(), Auth::none()), "/v1/admin/replication").await.problem(), "not-built");
}

#[tokio::test]
async fn the_emulated_network_is_there_only_when_it_is_on() {
    let off = admin_of(&Arc::default(), Auth::none());
    assert_eq!(get(&off, "/v1/admin/emulation").await.status, 404);
    assert_eq!(ask(&off, "PUT", "/v1/admin/emulation", &[], "{}").await.status, 404);
    let on = admin_of(&Arc::new(Daemon { emulation: Some(Mutex::new(json!({}))), ..Daemon::default() }), Auth::none());
    assert_eq!(ask(&on, "PUT", "/v1/admin/emulation", &[], "{\"loss\":0.1}").await.status, 200);
    assert_eq!(get(&on, "/v1/admin/emulation").await.json()["loss"], 0.1);
    assert_eq!(ask(&on, "PUT", "/v1/admin/emulation", &[], "{").await.problem(), "malformed");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_runs_no_other_script() {
    let page = get(&admin_of(&Arc::default(), Auth::none()), "/").await;
    assert_eq!(page.field("content-type"), "text/html; charset=utf-8");
    assert!(!page.text().contains("http://") && !page.text().contains("https://") && !page.text().contains("src="));
    let policy = page.field("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'sha256-"));
    assert_eq!(page.text().matches("<script>").count(), 1);
    for shown in ["/v1/admin/replication", "lapsed_since", "under_replicated_keys", "concerns"] {
        assert!(page.text().contains(shown), "{shown}");
    }
}

#[tokio::test]
async fn the_admin_listener_serves_and_drains() {
    let options = ListenerOptions { address: "127.0.0.1:0".parse().unwrap(), threads: 0, tls: None, limits: EdgeLimits::default() };
    let listener = AdminListener::start(&options, admin_of(&Arc::default(), Auth::none())).unwrap();
    crate::listener::provider();
    let client = reqwest::Client::new();
    let answer = client.get(format!("http://{}/livez", listener.address())).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "ok\n");
    assert_eq!(listener.drain(Duration::from_secs(5)).await.cut, 0);
}
