//! The file, the moves and the lists; a daemon that starts over as a whole is among the tests with real processes.

use std::sync::Arc;

use bytes::Bytes;
use isochrone_ident::{Key, Version};
use isochrone_replica::{Live, Record};
use isochrone_store::{Driver, Medium, StoreOptions};

use super::*;
use crate::node::identity::Recalled;

const NODE: NodeId = NodeId(7);

fn start_over() -> StartOver {
    let seeds = vec!["there:7946".to_owned()];
    StartOver { node: NODE, store: StoreId(70), incarnation: Incarnation(5), last: Hlc(9 << 20), seeds }
}

/// What a daemon does with its store at a start.
async fn run_once(dir: &Path) -> Recalled {
    let options = StoreOptions::new(Driver::Thread, Arc::new(|| WallMicros(1)), Arc::new(|why| panic!("{why}")));
    let store = Store::open(Medium::File(dir.join("data.redb")), options).expect("opens");
    if let Some(marker) = Marker::read(dir).expect("is sound") {
        marker.start_over().expect("is sound").hand_on(&store).await.expect("is written");
    }
    let recalled = identity::recall(&store, NODE, 42).await.expect("is written");
    store.close().await;
    recalled
}

fn council(dir: &Path) {
    fs::write(dir.join("council.redb"), b"votes").expect("written");
}

#[test]
fn the_file_reads_back_and_one_that_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(Marker::read(dir.path()).expect("none"), None);
    let marker = Marker::new(&start_over(), 1_795_000_000);
    marker.write(dir.path()).expect("written");
    let read = Marker::read(dir.path()).expect("sound").expect("there");
    assert_eq!((&read, read.start_over().expect("sound")), (&marker, start_over()));
    for bad in ["", "{}", "null", &serde_json::to_string(&marker).expect("text").replace("removed-", "../removed-")] {
        fs::write(dir.path().join(MARKER), bad).expect("written");
        assert!(matches!(Marker::read(dir.path()), Err(MarkerError::Malformed)), "{bad}");
    }
}

#[tokio::test]
async fn e7_a_daemon_that_starts_over_has_another_store_and_counts_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = run_once(dir.path()).await;
    council(dir.path());
    let marker = Marker::new(&start_over(), 1);
    marker.write(dir.path()).expect("written");
    marker.set_aside(dir.path()).expect("moved");
    assert!(!dir.path().join("data.redb").exists() && !dir.path().join("council.redb").exists());
    let new = run_once(dir.path()).await;
    assert_ne!(new.store, old.store, "even from the same seed");
    assert_eq!(new.incarnation, Incarnation(6), "M1");
    assert_eq!(new.last, start_over().last, "E3: no time is given twice");
    marker.finish(dir.path()).expect("moved");
    assert_eq!(Marker::read(dir.path()).expect("none"), None);
    let again = run_once(dir.path()).await;
    assert_eq!((again.store, again.incarnation), (new.store, Incarnation(7)));
    let kept = run_once(&marker.folder(dir.path())).await;
    assert_eq!(kept.store, old.store, "nothing of the old store is lost");
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_the_old_store_or_the_new_one() {
    for crash_after in 0..6 {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        let old = run_once(path).await;
        council(path);
        let marker = Marker::new(&start_over(), 1);
        let folder = marker.folder(path);
        // What is done before the process dies.
        let steps: [&dyn Fn(); 5] = [
            &|| fs::write(path.join("start-over.new"), b"half of").expect("written"),
            &|| marker.write(path).expect("written"),
            &|| fs::create_dir_all(&folder).expect("made"),
            &|| move_once(path, &folder, STORES[0]).expect("moved"),
            &|| move_once(path, &folder, STORES[1]).expect("moved"),
        ];
        steps.iter().take(crash_after).for_each(|step| step());
        let began = if crash_after > 4 { Some(run_once(path).await) } else { None };
        // The next start.
        let found = Marker::read(path).expect("whole or not there");
        if let Some(marker) = &found {
            marker.set_aside(path).expect("moved");
            marker.set_aside(path).expect("and again");
        }
        let next = run_once(path).await;
        match found {
            None => assert_eq!(next.store, old.store, "step {crash_after}: nothing was decided yet"),
            Some(_) => {
                assert_ne!(next.store, old.store, "step {crash_after}");
                assert!(next.incarnation > Incarnation(5), "step {crash_after}");
                assert!(folder.join("data.redb").exists() && folder.join("council.redb").exists(), "step {crash_after}");
                assert_eq!(run_once(&folder).await.store, old.store, "step {crash_after}");
            }
        }
        if let Some(began) = began {
            assert_eq!(next.store, began.store, "the new store is not taken for the old one");
            assert!(next.incarnation > began.incarnation);
        }
    }
}

fn entry(kind: Kind, key: &[u8], node: u128, hlc: u64, state: State) -> Entry {
    let version = Version { hlc: Hlc(hlc), node: NodeId(node), incarnation: Incarnation(1) };
    let ns = Namespace::new("data").expect("a name");
    Entry { ns, kind, key: Key::new(key.to_vec()).expect("a key"), record: Record { version, state, causes: None } }
}

fn live(value: &'static [u8]) -> State {
    State::Live(Live { value: Bytes::from_static(value), content_type: Some("text/plain".into()), expires_at: Some(WallMicros(9_000)) })
}

#[test]
fn e5_what_not_every_replica_has_are_our_writes_after_the_delivered_ones() {
    let delivered = Hlc(100);
    let is_alone = |kind, node, hlc| is_perhaps_alone(NODE, &entry(kind, b"k", node, hlc, live(b"v")), delivered);
    assert!(is_alone(Kind::Value, 7, 101));
    assert!(!is_alone(Kind::Value, 7, 100));
    assert!(!is_alone(Kind::Value, 8, 101), "another daemon's, which has it in its own log");
    assert!(is_alone(Kind::Counter, 8, 101), "joined from many: perhaps ours is among them");
}

#[test]
fn unacknowledged_writes_are_laid_out_as_lines_to_be_imported() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut out = Layout::new(dir.path()).expect("made");
    for entry in [
        entry(Kind::Value, b"plain", 7, 1, live(b"one")),
        entry(Kind::Value, &[0xff], 7, 2, live(b"two")),
        entry(Kind::Value, b"gone", 7, 3, State::Tombstone),
    ] {
        out.add(WallMicros(4_000), &entry).expect("written");
    }
    assert_eq!(out.finish().expect("written"), LeftBehind { puts: 2, others: 1 });
    let lines = |path: PathBuf| -> Vec<Value> {
        let text = fs::read_to_string(path).expect("there");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let puts = lines(dir.path().join(UNACKNOWLEDGED).join("data.ndjson"));
    let first = json!({"op": "put", "ns": "data", "key": "plain", "base64": "b25l", "content_type": "text/plain", "ttl_ms": 5});
    assert_eq!(puts[0], first);
    assert_eq!(puts[1]["key_base64"], json!("/w=="));
    let others = lines(dir.path().join(OTHERS));
    assert_eq!((&others[0]["key"], &others[0]["deleted"]), (&json!("gone"), &json!(true)));
}
