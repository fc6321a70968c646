//! Disks that are full or damaged: writes are refused, reads go on; a damaged file is named at the start.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use tests::process::{Authority, Daemon, Spec};

#[test]
fn e11_a_full_store_refuses_writes_with_507_and_reads_go_on() {
    let small = "[store]\ndisk_bytes = \"16MiB\"\nevictable_bytes = \"1MiB\"\nlog_bytes_max = \"1MiB\"\n[replication]\nhint_bytes_max = \"512KiB\"\n";
    let daemon = Daemon::ready(&Authority::new(), &Spec::new("us-east", 1).with(small));
    let value = vec![7; 1 << 20];
    let mut taken = 0;
    let refused = loop {
        match daemon.put(&format!("/v1/kv/data/k{taken}"), &value) {
            204 => taken += 1,
            status => break status,
        }
        assert!(taken < 64, "the budget holds");
    };
    assert_eq!(refused, 507);
    assert!(taken >= 4, "only {taken} MiB of 16 were taken");
    assert_eq!(daemon.get("/v1/kv/data/k0"), Some(value.clone()));
    assert_eq!(daemon.get(&format!("/v1/kv/data/k{}", taken - 1)), Some(value));
    assert_eq!(daemon.get(&format!("/v1/kv/data/k{taken}")), None, "what was refused is not there");
    assert!(daemon.metric("isochrone_store_refused_full_total") > 0.0, "refusals are counted");
}

#[test]
fn a_damaged_store_is_named_at_the_start() {
    let mut daemon = Daemon::ready(&Authority::new(), &Spec::new("us-east", 1));
    assert_eq!(daemon.put("/v1/kv/data/k", b"v"), 204);
    daemon.kill();
    let path = daemon.dir.path().join("data/data.redb");
    let mut file = File::options().write(true).open(&path).expect("the store's file");
    file.seek(SeekFrom::Start(0)).expect("sought");
    file.write_all(&[0xa5; 8192]).expect("written");
    daemon.start_again();
    assert!(!daemon.wait_end().success());
    let log = daemon.log();
    assert!(log.contains("data.redb") && (log.contains("damaged") || log.contains("can't be opened")), "{log}");
}

#[test]
fn a_killed_daemon_has_what_it_acknowledged() {
    let mut daemon = Daemon::ready(&Authority::new(), &Spec::new("us-east", 1));
    for n in 0..50 {
        assert_eq!(daemon.put(&format!("/v1/kv/data/k{n}"), b"v"), 204);
    }
    daemon.kill();
    daemon.start_again();
    daemon.wait_ready();
    for n in 0..50 {
        assert_eq!(daemon.get(&format!("/v1/kv/data/k{n}")).as_deref(), Some(&b"v"[..]), "k{n}");
    }
}
