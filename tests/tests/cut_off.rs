//! A daemon that is cut off, by the emulated network that `dev` uses: it takes writes, and delivers them after the cut.

use tests::process::{Authority, Daemon, Spec, free_udp, until};

fn emulated(region: &str, address: std::net::SocketAddr) -> String {
    format!("[emulation]\nenabled = true\n[[emulation.links]]\naddress = \"{address}\"\nregion = \"{region}\"\none_way = \"5ms\"\n")
}

#[test]
fn e5_a_daemon_that_is_cut_off_takes_writes_and_delivers_them_after_healing() {
    let authority = Authority::new();
    let far = free_udp();
    let first = Daemon::ready(&authority, &Spec::new("us-east", 1).with(&emulated("eu-west", far)));
    let second = Daemon::start_at(&authority, &Spec::new("eu-west", 2).joining(&first), far);
    second.wait_ready();
    until("both are members", || first.members() == 2 && second.members() == 2);

    let cut = first.admin("PUT", "/v1/admin/emulation", br#"{"region": "eu-west", "cut": "both"}"#);
    assert_eq!(cut.map(|(status, _)| status), Some(200));
    assert_eq!(first.put("/v1/kv/data/here", b"1"), 204);
    assert_eq!(second.put("/v1/kv/data/there", b"2"), 204);
    assert_eq!(second.get("/v1/kv/data/here"), None);

    let healed = first.admin("PUT", "/v1/admin/emulation", br#"{"region": "eu-west", "cut": "none"}"#);
    assert_eq!(healed.map(|(status, _)| status), Some(200));
    until("each has what the other took", || {
        second.get("/v1/kv/data/here").as_deref() == Some(b"1") && first.get("/v1/kv/data/there").as_deref() == Some(b"2")
    });
}
