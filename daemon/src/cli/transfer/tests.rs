//! Import and export against a fake daemon, faults and all.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Parser;

use super::super::args::{Cli, Command, OutputFormat};
use super::super::failure::{Exit, Failure};
use super::fake_daemon::{FakeDaemon, Fault};
use super::{export, import};

async fn run(fake: &FakeDaemon, line: &str) -> Result<(), Failure> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = fake.url();
    let cli = Cli::try_parse_from(line.split(' ').chain(["--url", &url])).expect("parses");
    match cli.command {
        Command::Import(args) => import(&args, OutputFormat::Text).await,
        Command::Export(args) => export(&args, OutputFormat::Json).await,
        other => panic!("{other:?}"),
    }
}

struct Scene {
    fake: FakeDaemon,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self { fake: FakeDaemon::start().await, dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("text").to_owned()
    }

    fn write(&self, name: &[u8], bytes: &[u8]) {
        let path = self.dir.path().join("in").join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    /// Imports `in`, with a journal of its own.
    async fn import(&self, more: &str) -> Result<(), Failure> {
        let line = format!("isochrone import --namespace data --dir {} --state {}{more}", self.path("in"), self.path("journal"));
        run(&self.fake, &line).await
    }

    fn writes(&self, key: &[u8]) -> Vec<String> {
        self.fake.state.lock().expect("not poisoned").writes.get(key).cloned().unwrap_or_default()
    }

    fn applied(&self) -> usize {
        self.fake.state.lock().expect("not poisoned").applied
    }
}

#[tokio::test]
async fn files_become_keys_byte_for_byte_with_their_types() {
    let scene = Scene::new().await;
    let large: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    scene.write(b"index.html", "<p>é".as_bytes());
    scene.write(b"img/logo.png", b"\x89PNG");
    scene.write(b"big/blob.bin", &large);
    scene.write(b"a b/\xff.txt", b"");
    scene.import(" --prefix doc/ --ttl 90s").await.expect("imported");
    let html = scene.fake.holds(b"doc/index.html").expect("there");
    assert_eq!((&html.value[..], &html.content_type[..]), ("<p>é".as_bytes(), "text/html; charset=utf-8"));
    assert_eq!(html.ttl.as_deref(), Some("90000ms"));
    assert_eq!(scene.fake.holds(b"doc/img/logo.png").expect("there").content_type, "image/png");
    assert!(scene.fake.holds(b"doc/big/blob.bin").expect("there").value[..] == large[..]);
    assert_eq!(scene.fake.holds(b"doc/a b/\xff.txt").expect("there").value.len(), 0);
    run(&scene.fake, &format!("isochrone export --namespace data --prefix doc/ --verify {}", scene.path("in"))).await.expect("all equal");
}

#[tokio::test]
async fn a_refused_or_unanswered_write_is_repeated_under_its_name_and_applied_once() {
    let scene = Scene::new().await;
    for name in ["a", "b", "c", "d"] {
        scene.write(name.as_bytes(), name.as_bytes());
    }
    scene.fake.fail(b"a", &[Fault::NothingApplied, Fault::NothingApplied]);
    scene.fake.fail(b"b", &[Fault::AppliedButUnknown]);
    scene.fake.fail(b"c", &[Fault::AppliedButCutOff]);
    scene.import("").await.expect("imported");
    assert_eq!(scene.applied(), 4, "each applied once");
    for (key, count) in [(b"a", 3), (b"b", 2), (b"c", 2), (b"d", 1)] {
        let mut names = scene.writes(key);
        assert_eq!(names.len(), count);
        names.dedup();
        assert_eq!(names.len(), 1, "always the same Idempotency-Key");
    }
}

#[tokio::test]
async fn what_cannot_help_is_not_repeated_and_counted() {
    let scene = Scene::new().await;
    scene.write(b"good", b"1");
    scene.write(b"large", b"2");
    scene.fake.fail(b"large", &[Fault::TooLarge, Fault::TooLarge]);
    let failure = scene.import("").await.expect_err("one failed");
    assert_eq!((failure.exit, &failure.detail[..]), (Exit::Partly, "1 of 2"));
    assert_eq!(scene.writes(b"large").len(), 1);
    assert!(scene.fake.holds(b"good").is_some());
}

#[tokio::test]
async fn a_second_run_writes_only_what_is_missing_or_changed() {
    let scene = Scene::new().await;
    scene.write(b"kept", b"1");
    scene.write(b"changed", b"1");
    scene.write(b"failed", b"1");
    scene.fake.fail(b"failed", &[Fault::TooLarge]);
    scene.import("").await.expect_err("one failed");
    scene.write(b"changed", b"longer");
    scene.import(" --resume").await.expect("imported");
    assert_eq!(scene.writes(b"kept").len(), 1);
    assert_eq!(scene.writes(b"changed").len(), 2);
    assert_eq!(&scene.fake.holds(b"changed").expect("there").value[..], b"longer");
    assert!(scene.fake.holds(b"failed").is_some());
}

#[tokio::test]
async fn without_a_daemon_the_run_stops_early_and_can_be_taken_up_again() {
    let scene = Scene::new().await;
    (0..200).for_each(|i| scene.write(format!("{i}").as_bytes(), b"x"));
    let dead = FakeDaemon { address: "127.0.0.1:9".parse().expect("an address"), state: scene.fake.state.clone() };
    let state = scene.path("journal");
    let line = format!("isochrone import --namespace data --dir {} --state {state} --concurrency 4 --attempts 1", scene.path("in"));
    let failure = run(&dead, &line).await.expect_err("nobody there");
    assert_eq!(failure.exit, Exit::Partly);
    assert!(failure.to_string().contains("--resume"), "{failure}");
    scene.import("").await.expect("imported");
    assert_eq!(scene.applied(), 200);
}

#[tokio::test]
async fn an_export_writes_the_files_that_were_imported() {
    let scene = Scene::new().await;
    for name in ["a.html", "b/c.css", "b/d/e.txt", "f", "g"] {
        scene.write(name.as_bytes(), name.as_bytes());
    }
    scene.import(" --prefix doc/").await.expect("imported");
    scene.fake.put(b"other", b"not mine", "text/plain");
    run(&scene.fake, &format!("isochrone export --namespace data --prefix doc/ --dir {}", scene.path("out"))).await.expect("exported");
    assert_eq!(fs::read(scene.path("out/b/d/e.txt")).expect("read"), b"b/d/e.txt");
    assert_eq!(fs::read_dir(scene.path("out")).expect("read").count(), 4, "no leftovers, nothing of others");
}

#[tokio::test]
async fn keys_that_would_leave_the_directory_are_refused_and_the_rest_is_written() {
    let scene = Scene::new().await;
    for key in [&b"../escaped"[..], b"/absolute", b"a/../../escaped", b"nul\0byte", b"dir//file", b"fine"] {
        scene.fake.put(key, b"x", "text/plain");
    }
    let failure = run(&scene.fake, &format!("isochrone export --namespace data --dir {}", scene.path("out"))).await.expect_err("refused");
    assert_eq!(failure.exit, Exit::Partly);
    assert!(scene.dir.path().join("out/fine").exists());
    assert!(!scene.dir.path().join("escaped").exists());
    assert!(!Path::new("/absolute").exists());
    assert_eq!(fs::read_dir(scene.path("out")).expect("read").count(), 1);
}

#[tokio::test]
async fn lines_carry_keys_values_types_and_lifetimes_from_one_cluster_to_another() {
    let (scene, other) = (Scene::new().await, Scene::new().await);
    scene.write(b"t.txt", b"text");
    scene.write(b"\xff.bin", b"\xfe");
    scene.import(" --ttl 60s").await.expect("imported");
    let lines = scene.path("lines");
    run(&scene.fake, &format!("isochrone export --namespace data --ndjson {lines}")).await.expect("exported");
    let text = fs::read_to_string(&lines).expect("read");
    assert!(
        text.starts_with(
            r#"{"op":"put","ns":"data","key":"t.txt","text":"text","content_type":"text/plain; charset=utf-8","ttl_ms":60000}"#
        ),
        "{text}"
    );
    let journal = other.path("journal");
    run(&other.fake, &format!("isochrone import --namespace data --ndjson {lines} --state {journal}")).await.expect("imported");
    assert_eq!(other.fake.state.lock().expect("not poisoned").keys, scene.fake.state.lock().expect("not poisoned").keys);
    run(&other.fake, &format!("isochrone import --namespace data --ndjson {lines} --state {journal}")).await.expect("imported");
    assert_eq!(other.applied(), 2, "the second run skips both lines");
}

#[tokio::test]
async fn a_bad_line_fails_alone() {
    let scene = Scene::new().await;
    let lines = scene.path("lines");
    fs::write(&lines, "{\"key\":\"a\",\"text\":\"1\"}\nnonsense\n\n{\"key\":\"b\",\"base64\":\"/w==\"}").expect("written");
    let failure = run(&scene.fake, &format!("isochrone import --namespace data --ndjson {lines} --state {}", scene.path("j"))).await;
    assert_eq!(failure.expect_err("one failed").detail, "1 of 3");
    assert_eq!(&scene.fake.holds(b"b").expect("there").value[..], b"\xff");
}

#[tokio::test]
async fn a_comparison_finds_every_kind_of_difference() {
    let scene = Scene::new().await;
    for name in ["same.txt", "bytes.txt", "shorter.txt", "type.txt", "missing.txt"] {
        scene.write(name.as_bytes(), b"abc");
    }
    scene.import("").await.expect("imported");
    scene.fake.put(b"bytes.txt", b"abX", "text/plain; charset=utf-8");
    scene.fake.put(b"shorter.txt", b"ab", "text/plain; charset=utf-8");
    scene.fake.put(b"type.txt", b"abc", "text/html");
    scene.fake.put(b"extra.txt", b"abc", "text/plain; charset=utf-8");
    scene.fake.state.lock().expect("not poisoned").keys.remove(&b"missing.txt"[..]);
    let failure =
        run(&scene.fake, &format!("isochrone export --namespace data --verify {}", scene.path("in"))).await.expect_err("they differ");
    assert_eq!((failure.exit, &failure.detail[..]), (Exit::Partly, "5 of 6"));
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_ends_the_run_early() {
    let scene = Scene::new().await;
    (0..200).for_each(|i| scene.write(format!("{i}").as_bytes(), b"x"));
    let line = format!("isochrone import --namespace nowhere --dir {} --state {}", scene.path("in"), scene.path("journal"));
    let failure = run(&scene.fake, &format!("{line} --concurrency 4")).await.expect_err("refused");
    assert!(failure.detail.contains("no-such-namespace"), "{failure}");
    let failure =
        run(&scene.fake, &format!("isochrone export --namespace nowhere --dir {}", scene.path("out"))).await.expect_err("refused");
    assert_eq!(failure.exit, Exit::Absent);
}
