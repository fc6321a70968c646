//! Configuration keys mapped onto the options of the rooms: the one place that knows both.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isochrone_config::{ClusterSpec, NodeSettings};
use isochrone_council::{CouncilOptions, Timers};
use isochrone_edge::{EdgeLimits, Grant, Right, Scope, Token};
use isochrone_gossip::{Bounds, EmulatedSockets, Emulation, LinkShape, RealSockets, Sockets};
use isochrone_ident::Region;
use isochrone_replica::ClockLimits;
use isochrone_store::{Driver, StoreOptions};

use super::emulate::EmulatedNetwork;
use super::options::{Environment, NodeOptions};

/// Bytes of packets that the emulated network holds, at most.
const EMULATED_BYTES_MAX: usize = 64 << 20;

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
        value_bytes: limits.value_bytes.as_u64(),
        idempotency_ttl: limits.idempotency_ttl.duration(),
        read_deadline: limits.read_deadline.duration(),
        propose_deadline: settings.council.propose_deadline.duration(),
        join: settings.peer.join.clone(),
        cluster_file: String::new(),
        cluster_width: ClusterSpec::default().replica_width(),
        ..NodeOptions::default()
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
        ..StoreOptions::new(Driver::Thread, Arc::clone(&environment.wall), Arc::clone(&environment.on_fatal))
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
        inbound_calls_max: peer.queue_max,
        streams_max: peer.streams_max,
        frame_bytes_max: peer.frame_bytes_max.as_usize(),
        deadline_max: peer.call_deadline.duration(),
        retry_percent: (peer.retry_budget * 100.0).round() as u32,
        ..Bounds::default()
    }
}

/// The council's timers and bounds.
pub(crate) fn council_options(settings: &NodeSettings, options: &mut CouncilOptions) {
    let council = &settings.council;
    let defaults = Timers::default();
    let heartbeat = council.heartbeat.or(defaults.heartbeat);
    let lease = council.election_timeout.or(defaults.lease);
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
    let regions = shape_links(settings, &emulation);
    (Arc::new(sockets), Some(EmulatedNetwork { emulation, regions }))
}

fn shape_links(settings: &NodeSettings, emulation: &Emulation) -> BTreeMap<SocketAddr, Region> {
    let mut regions = BTreeMap::new();
    for link in &settings.emulation.links {
        let shape = LinkShape { one_way: link.one_way.duration(), jitter_mean: link.jitter.duration(), loss: link.loss };
        emulation.set(link.address, shape);
        regions.insert(link.address, link.region.clone());
    }
    regions
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
