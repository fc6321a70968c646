//! Configuration keys mapped onto the options of the rooms: the one place that knows both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isochrone_config::{ClusterSpec, NodeSettings};
use isochrone_council::{CouncilOptions, Timers};
use isochrone_edge::{EdgeLimits, Grant, Right, Scope, Token};
use isochrone_gossip::{Bounds, EmulatedSockets, LinkShape, RealSockets, Sockets};
use isochrone_ident::Region;
use isochrone_replica::{ClockLimits, DigestKey};
use isochrone_store::{Driver, StoreOptions, StrongOptions as StrongStoreOptions};

use super::emulate::EmulatedNetwork;
use super::options::{CopyOptions, Environment, Hints, NodeOptions, RepairOptions, StrongOptions, TypedBounds};

/// Bytes of packets that the emulated network holds, at most.
const EMULATED_BYTES_MAX: usize = 64 << 20;

/// What a line of a batch may have beside its value, which takes a third more as base64 and up to twice as much as escaped text.
const LINE_EXTRA_BYTES: usize = 16 << 10;

/// The node's own bounds.
pub(crate) fn node_options(settings: &NodeSettings) -> NodeOptions {
    let (replication, limits) = (&settings.replication, &settings.limits);
    NodeOptions {
        heartbeat: replication.heartbeat.duration(),
        window: replication.window,
        batch_bytes: replication.batch_bytes.as_usize(),
        backoff: (replication.resend_min.duration(), replication.resend_max.duration()),
        clock: ClockLimits {
            ahead_ms_max: replication.clock_ahead_max.as_millis(),
            ahead_ms_alarm: replication.clock_ahead_alarm.as_millis(),
        },
        move_bytes_per_second: replication.move_bytes_per_second.as_u64(),
        disk_bytes_max: settings.store.disk_bytes.as_u64(),
        log_bytes_max: settings.store.log_bytes_max.as_u64(),
        hints: Hints { bytes_max: replication.hint_bytes_max.as_u64(), age_max: replication.hint_age_max.duration() },
        repair: repair_options(settings),
        away_max: settings.council.away_max.duration(),
        copies: copy_options(settings),
        strong: strong_options(settings),
        value_bytes: limits.value_bytes.as_u64(),
        idempotency_ttl: limits.idempotency_ttl.duration(),
        read_deadline: limits.read_deadline.duration(),
        write_deadline: limits.write_deadline.duration(),
        session_wait: limits.session_wait.duration(),
        typed: typed_bounds(settings),
        propose_deadline: settings.council.propose_deadline.duration(),
        join: settings.peer.join.clone(),
        cluster_file: String::new(),
        cluster_width: ClusterSpec::default().replica_width(),
        ..NodeOptions::default()
    }
}

fn repair_options(settings: &NodeSettings) -> RepairOptions {
    let replication = &settings.replication;
    RepairOptions {
        interval: (replication.repair_interval_min.duration(), replication.repair_interval_max.duration()),
        bytes_per_second: replication.repair_bytes_per_second.as_u64(),
        page_bytes: replication.repair_page_bytes.as_usize(),
    }
}

fn copy_options(settings: &NodeSettings) -> CopyOptions {
    let copies = &settings.copies;
    CopyOptions { bytes: copies.bytes.as_u64(), subscribers_max: copies.subscribers_max, queue: copies.queue }
}

fn strong_options(settings: &NodeSettings) -> StrongOptions {
    let strong = &settings.strong;
    StrongOptions {
        deadline: strong.deadline.duration(),
        step: strong.step.duration(),
        queue: strong.queue,
        ring: strong.ring,
        fences: strong.fences,
        warm_keys: strong.warm_keys,
        grant_keys: strong.grant_keys,
        page_keys: strong.page_keys,
        page_bytes: strong.page_bytes.as_usize(),
        channel_queue: strong.channel_queue,
        channel_queue_bytes: strong.channel_queue_bytes.as_usize(),
        memory_bytes: strong.memory_bytes.as_usize(),
        store_queue: strong.store_queue,
        store_queue_bytes: strong.store_queue_bytes.as_usize(),
        copies: strong.copies,
        local_age_max: strong.local_age_max.duration(),
        forget_every: strong.forget_every.duration(),
        own_window: strong.own_window.duration(),
        move_keys: strong.move_keys,
        move_slots: strong.move_slots,
    }
}

fn typed_bounds(settings: &NodeSettings) -> TypedBounds {
    let limits = &settings.limits;
    TypedBounds {
        set_members: limits.set_members,
        member_bytes: limits.member_bytes.as_usize(),
        map_fields: limits.map_fields,
        register_values: limits.register_values,
    }
}

/// The store's bounds.
pub(crate) fn store_options(settings: &NodeSettings, environment: &Environment) -> StoreOptions {
    let store = &settings.store;
    StoreOptions {
        disk_bytes_max: store.disk_bytes.as_u64(),
        evictable_bytes_max: store.evictable_bytes.as_u64(),
        memory_bytes_max: store.memory_bytes.as_u64(),
        batch_max: store.batch_max,
        queue_max: store.queue_max,
        sync_interval: store.sync_interval.duration(),
        seed: environment.seed,
        digest_key: Some(DigestKey::of(&settings.node.cluster)),
        ..StoreOptions::new(Driver::Thread, Arc::clone(&environment.wall), Arc::clone(&environment.on_fatal))
    }
}

/// The strong store's.
pub(crate) fn strong_store_options(settings: &NodeSettings, environment: &Environment) -> StrongStoreOptions {
    let strong = &settings.strong;
    StrongStoreOptions {
        disk_bytes_max: settings.store.disk_bytes.as_u64(),
        memory_bytes_max: strong.memory_bytes.as_u64(),
        queue_rows_max: strong.store_queue,
        queue_bytes_max: strong.store_queue_bytes.as_u64(),
        seed: environment.seed,
        ..StrongStoreOptions::new(Driver::Thread, Arc::clone(&environment.on_fatal))
    }
}

/// The mesh's bounds.
pub(crate) fn mesh_bounds(settings: &NodeSettings) -> Bounds {
    let peer = &settings.peer;
    Bounds {
        idle_timeout: peer.idle_timeout.duration(),
        keep_alive: peer.idle_timeout.duration() / 4,
        backoff_min: peer.reconnect_min.duration(),
        backoff_max: peer.reconnect_max.duration(),
        inbound_calls_max: peer.calls_max,
        streams_max: peer.streams_max,
        frame_bytes_max: peer.frame_bytes_max.as_usize(),
        deadline_max: peer.call_deadline.duration(),
        retry_percent: (peer.retry_budget * 100.0).round() as u32,
        gateways: peer.gateways,
        ..Bounds::default()
    }
}

/// The council's timers and bounds.
pub(crate) fn council_options(settings: &NodeSettings, options: &mut CouncilOptions) {
    let council = &settings.council;
    let defaults = Timers::default();
    let heartbeat = council.heartbeat.or(defaults.heartbeat.min(council.election_timeout.or(defaults.lease) / 5));
    let lease = council.election_timeout.or(defaults.lease.max(heartbeat * 5));
    options.timers = Timers { heartbeat, lease, message: defaults.message.min(lease.saturating_sub(heartbeat)), ..defaults };
    options.settle = council.settle.duration();
    options.snapshot_every = council.snapshot_every;
}

/// The HTTP side's bounds.
pub(crate) fn edge_limits(settings: &NodeSettings) -> EdgeLimits {
    let (http, limits) = (&settings.http, &settings.limits);
    EdgeLimits {
        header_bytes: http.header_bytes.as_usize(),
        connections: http.max_connections,
        header_read: http.header_timeout.duration(),
        idle: http.idle_timeout.duration(),
        body_idle: http.body_timeout.duration(),
        request_time: http.request_timeout.duration(),
        list_max: limits.list_max,
        list_default: limits.list_max.min(1000),
        batch_lines: limits.batch_lines_max,
        batch_bytes: limits.batch_bytes_max.as_u64(),
        batch_line_bytes: limits.value_bytes.as_usize().saturating_mul(2).saturating_add(LINE_EXTRA_BYTES),
        bodies_bytes: limits.body_bytes_in_flight.as_u64(),
        ..EdgeLimits::default()
    }
}

/// The sockets: real ones, or emulated distance where the settings say so.
pub(crate) fn sockets(settings: &NodeSettings, seed: u64) -> (Arc<dyn Sockets>, Option<EmulatedNetwork>) {
    let real = RealSockets::default();
    if !settings.emulation.enabled {
        return (Arc::new(real), None);
    }
    let (sockets, emulation) = EmulatedSockets::new(real, seed, EMULATED_BYTES_MAX);
    let network = EmulatedNetwork::new(emulation);
    network.lay(links(settings));
    (Arc::new(sockets), Some(network))
}

/// The emulated links: to which address, in which region, and how packets fare.
pub(crate) fn links(settings: &NodeSettings) -> impl Iterator<Item = (SocketAddr, Region, LinkShape)> + '_ {
    settings.emulation.links.iter().map(|link| {
        let shape = LinkShape { one_way: link.one_way.duration(), jitter_mean: link.jitter.duration(), loss: link.loss };
        (link.address, link.region.clone(), shape)
    })
}

/// Tokens as the HTTP side holds them.
pub(crate) fn tokens(configured: &[isochrone_config::Token]) -> Vec<Token> {
    configured.iter().map(token).collect()
}

fn token(token: &isochrone_config::Token) -> Token {
    let grants = token.rights.iter().flat_map(|grant| {
        let scope = match &grant.namespace {
            isochrone_config::Scope::All => Scope::All,
            isochrone_config::Scope::One(ns) => Scope::Namespace(ns.clone()),
        };
        grant.allow.iter().map(move |right| Grant { scope: scope.clone(), right: right_of(*right) })
    });
    Token { name: token.name.as_str().into(), sha256: *token.sha256.as_bytes(), grants: grants.collect() }
}

const fn right_of(right: isochrone_config::Right) -> Right {
    match right {
        isochrone_config::Right::Read => Right::Read,
        isochrone_config::Right::Write => Right::Write,
        isochrone_config::Right::Admin => Right::Admin,
    }
}

/// How long a graceful stop may take.
pub(crate) fn drain_timeout(settings: &NodeSettings) -> Duration {
    settings.http.drain_timeout.duration()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use isochrone_config::NODE;
    use isochrone_council::Member;
    use isochrone_ident::{ClusterName, Incarnation, NodeId, StoreId, WallMicros};
    use isochrone_placement::Capacity;

    use super::*;

    /// Keys that are mapped onto an option: another value, in a file, which has to change an option.
    const MAPPED: &[(&str, &str)] = &[
        ("http.max_connections", "7"),
        ("http.header_bytes", "\"9KiB\""),
        ("http.header_timeout", "\"7s\""),
        ("http.body_timeout", "\"7s\""),
        ("http.request_timeout", "\"7s\""),
        ("http.idle_timeout", "\"7s\""),
        ("http.drain_timeout", "\"7s\""),
        ("peer.join", "[\"a.example:1\"]\npeer.ca = \"a\"\npeer.cert = \"c\"\npeer.key = \"k\""),
        ("peer.gateways", "3"),
        ("peer.frame_bytes_max", "\"21MiB\""),
        ("peer.calls_max", "17"),
        ("peer.streams_max", "17"),
        ("peer.call_deadline", "\"7s\""),
        ("peer.retry_budget", "0.5"),
        ("peer.idle_timeout", "\"7s\""),
        ("peer.reconnect_min", "\"7ms\""),
        ("peer.reconnect_max", "\"7s\""),
        ("store.disk_bytes", "\"21GiB\""),
        ("store.evictable_bytes", "\"5GiB\""),
        ("store.memory_bytes", "\"7MiB\""),
        ("store.batch_max", "7"),
        ("store.queue_max", "7"),
        ("store.sync_interval", "\"7ms\""),
        ("store.log_bytes_max", "\"7GiB\""),
        ("limits.value_bytes", "\"7MiB\""),
        ("limits.idempotency_ttl", "\"7s\""),
        ("limits.list_max", "7"),
        ("limits.batch_lines_max", "7"),
        ("limits.batch_bytes_max", "\"7MiB\""),
        ("limits.body_bytes_in_flight", "\"77MiB\""),
        ("limits.read_deadline", "\"7s\""),
        ("limits.write_deadline", "\"7s\""),
        ("limits.session_wait", "\"7s\""),
        ("limits.set_members", "7"),
        ("limits.member_bytes", "\"77B\""),
        ("limits.map_fields", "7"),
        ("limits.register_values", "7"),
        ("replication.heartbeat", "\"70ms\""),
        ("replication.window", "7"),
        ("replication.batch_bytes", "\"7MiB\""),
        ("replication.resend_min", "\"70ms\""),
        ("replication.resend_max", "\"7s\""),
        ("replication.clock_ahead_max", "\"700ms\""),
        ("replication.clock_ahead_alarm", "\"70ms\""),
        ("replication.move_bytes_per_second", "\"7MiB\""),
        ("replication.hint_bytes_max", "\"7MiB\""),
        ("replication.hint_age_max", "\"7h\""),
        ("replication.repair_interval_min", "\"7s\""),
        ("replication.repair_interval_max", "\"70s\""),
        ("replication.repair_bytes_per_second", "\"7MiB\""),
        ("replication.repair_page_bytes", "\"7KiB\""),
        ("copies.bytes", "\"0\""),
        ("copies.subscribers_max", "7"),
        ("copies.queue", "77"),
        ("strong.deadline", "\"700ms\""),
        ("strong.step", "\"700ms\""),
        ("strong.queue", "77"),
        ("strong.ring", "77"),
        ("strong.fences", "77"),
        ("strong.warm_keys", "77"),
        ("strong.grant_keys", "77"),
        ("strong.page_keys", "77"),
        ("strong.page_bytes", "\"7KiB\""),
        ("strong.channel_queue", "77"),
        ("strong.channel_queue_bytes", "\"17MiB\""),
        ("strong.memory_bytes", "\"17MiB\""),
        ("strong.store_queue", "77"),
        ("strong.store_queue_bytes", "\"17MiB\""),
        ("strong.copies", "77"),
        ("strong.local_age_max", "\"700ms\""),
        ("strong.forget_every", "\"700ms\""),
        ("strong.own_window", "\"700ms\""),
        ("strong.move_keys", "77"),
        ("strong.move_slots", "77"),
        ("council.heartbeat", "\"70ms\""),
        ("council.election_timeout", "\"7s\""),
        ("council.snapshot_every", "77"),
        ("council.propose_deadline", "\"7s\""),
        ("council.settle", "\"7s\""),
        ("council.away_max", "\"7h\""),
        ("emulation.links", "[{ address = \"127.0.0.1:7\", region = \"eu-west\", one_way = \"7ms\" }]"),
    ];

    /// Keys that are taken as they are, and where.
    const TAKEN: &[(&str, &str)] = &[
        ("node.cluster", "node.cluster != identity.cluster"),
        ("node.region", "node.region != identity.region"),
        ("node.zone", "zone: settings.node.zone.clone()"),
        ("node.data_dir", "settings.node.data_dir.join("),
        ("node.capacity", "Capacity::new(settings.node.capacity)"),
        ("http.listen", "options(settings.http.listen, http_tls, settings.http.threads)"),
        ("http.threads", "options(settings.http.listen, http_tls, settings.http.threads)"),
        ("http.tls.cert", "tls(settings.http.tls.as_ref())"),
        ("http.tls.key", "Tls::load(&files.cert, &files.key)"),
        ("admin.listen", "options(settings.admin.listen, admin_tls, 1)"),
        ("admin.tls.cert", "tls(settings.admin.tls.as_ref())"),
        ("admin.tls.key", "Tls::load(&files.cert, &files.key)"),
        ("peer.listen", "listen: settings.peer.listen"),
        ("peer.advertise", "advertise: settings.peer.advertise.clone().or_else("),
        ("peer.ca", "authorities: files.ca"),
        ("peer.cert", "certificate: files.cert"),
        ("peer.key", "key: files.key"),
        ("auth.mode", "settings.auth.mode =="),
        ("auth.token", "settings::tokens(&settings.auth.token)"),
        ("log.filter", "EnvFilter::try_new(&settings.log.filter)"),
        ("log.format", "match settings.log.format"),
        ("emulation.enabled", "if !settings.emulation.enabled"),
    ];

    fn settings(text: &str) -> NodeSettings {
        let text = format!("node.region = \"us-east\"\n{text}\n");
        let loaded = NodeSettings::parse(&text, Path::new("node.toml"), std::iter::empty(), &[]);
        loaded.unwrap_or_else(|problems| panic!("{text}: {problems}")).settings
    }

    fn council(settings: &NodeSettings) -> CouncilOptions {
        let me = Member {
            node: NodeId(1),
            store: StoreId(1),
            region: settings.node.region.clone(),
            zone: None,
            address: String::new(),
            capacity: Capacity::ONE,
            incarnation: Incarnation(1),
        };
        let mut council = CouncilOptions::new(me, ClusterName::new("test").expect("a name"), 1);
        council_options(settings, &mut council);
        council
    }

    /// Everything that settings are mapped onto.
    fn options(settings: &NodeSettings) -> String {
        let environment = Environment { wall: Arc::new(|| WallMicros(0)), seed: 1, on_fatal: Arc::new(|_| {}) };
        let store = store_options(settings, &environment);
        let council = council(settings);
        format!(
            "{:?} {store:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            node_options(settings),
            store.sync_interval,
            mesh_bounds(settings),
            (council.timers, council.settle, council.snapshot_every),
            edge_limits(settings),
            links(settings).collect::<Vec<_>>(),
            tokens(&settings.auth.token),
            drain_timeout(settings),
        )
    }

    #[test]
    fn every_key_of_the_node_file_does_something() {
        let known: BTreeSet<&str> = MAPPED.iter().chain(TAKEN).map(|(key, _)| *key).collect();
        let keys: BTreeSet<&str> = NODE.keys().map(|key| key.path).collect();
        assert_eq!(known, keys, "a key is new or gone: say here what it does");
        let before = options(&settings(""));
        for (key, value) in MAPPED {
            assert_ne!(options(&settings(&format!("{key} = {value}"))), before, "{key} is read and never used");
        }
        let sources = [include_str!("run.rs"), include_str!("settings.rs").split("mod tests").next().unwrap_or_default()];
        for (key, place) in TAKEN {
            assert!(sources.iter().any(|source| source.contains(place)), "{key} is read and never used: {place:?} is gone");
        }
    }

    #[test]
    fn the_strong_path_has_the_same_defaults_with_and_without_a_file() {
        assert_eq!(node_options(&settings("")).strong, StrongOptions::default());
    }

    #[test]
    fn each_of_the_councils_timers_follows_the_other_where_only_one_is_set() {
        let timers = |text: &str| {
            let council = council(&settings(text));
            (council.timers.heartbeat, council.timers.lease, council.timers.message)
        };
        let ms = Duration::from_millis;
        assert_eq!(timers(""), (ms(200), ms(1_000), ms(600)));
        assert_eq!(timers("council.heartbeat = \"2s\""), (ms(2_000), ms(10_000), ms(600)));
        assert_eq!(timers("council.election_timeout = \"100ms\""), (ms(20), ms(100), ms(80)));
    }
}
