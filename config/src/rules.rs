//! Rules between keys: values that are each valid and contradict each other.

use std::net::{IpAddr, SocketAddr};

use crate::settings::{AuthMode, FRAME_EXTRA, NodeSettings};
use crate::units::{AutoSpan, ByteSize};

/// One rule: the keys that it looks at, the one to blame first, and what to say when it is broken.
pub(crate) struct Rule {
    pub(crate) keys: &'static [&'static str],
    pub(crate) broken: fn(&NodeSettings) -> Option<String>,
}

pub(crate) const RULES: &[Rule] = &[
    Rule { keys: &["http.listen", "auth.mode"], broken: |s| open_listener(s, s.http.listen) },
    Rule { keys: &["admin.listen", "auth.mode"], broken: |s| open_listener(s, s.admin.listen) },
    Rule { keys: &["auth.token", "auth.mode"], broken: |s| tokens_without_mode(s) },
    Rule { keys: &["admin.listen", "http.listen"], broken: |s| same_listener(s) },
    Rule { keys: &["peer.join", "peer.ca", "peer.cert", "peer.key"], broken: |s| join_without_identity(s) },
    Rule { keys: &["peer.advertise"], broken: |s| advertised_nowhere(s) },
    Rule { keys: &["peer.frame_bytes_max", "limits.value_bytes"], broken: |s| short_frame(s) },
    Rule {
        keys: &["peer.reconnect_max", "peer.reconnect_min"],
        broken: |s| below(s.peer.reconnect_max < s.peer.reconnect_min, "peer.reconnect_min", &s.peer.reconnect_min),
    },
    Rule {
        keys: &["replication.resend_max", "replication.resend_min"],
        broken: |s| below(s.replication.resend_max < s.replication.resend_min, "replication.resend_min", &s.replication.resend_min),
    },
    Rule {
        keys: &["replication.clock_ahead_max", "replication.clock_ahead_alarm"],
        broken: |s| {
            let alarm = s.replication.clock_ahead_alarm;
            below(s.replication.clock_ahead_max < alarm, "replication.clock_ahead_alarm", &alarm)
        },
    },
    Rule {
        keys: &["replication.repair_interval_max", "replication.repair_interval_min"],
        broken: |s| {
            let min = s.replication.repair_interval_min;
            below(s.replication.repair_interval_max < min, "replication.repair_interval_min", &min)
        },
    },
    Rule { keys: &["store.log_bytes_max", "replication.hint_bytes_max"], broken: |s| short_log(s) },
    Rule {
        keys: &["store.disk_bytes", "store.evictable_bytes"],
        broken: |s| below(s.store.disk_bytes < s.store.evictable_bytes, "store.evictable_bytes", &s.store.evictable_bytes),
    },
    Rule {
        keys: &["store.disk_bytes", "store.log_bytes_max"],
        broken: |s| below(s.store.disk_bytes < s.store.log_bytes_max, "store.log_bytes_max", &s.store.log_bytes_max),
    },
    Rule {
        keys: &["limits.body_bytes_in_flight", "limits.value_bytes"],
        broken: |s| below(s.limits.body_bytes_in_flight < s.limits.value_bytes, "limits.value_bytes", &s.limits.value_bytes),
    },
    Rule {
        keys: &["limits.body_bytes_in_flight", "limits.batch_bytes_max"],
        broken: |s| below(s.limits.body_bytes_in_flight < s.limits.batch_bytes_max, "limits.batch_bytes_max", &s.limits.batch_bytes_max),
    },
    Rule { keys: &["strong.deadline", "strong.step"], broken: |s| below(s.strong.deadline < s.strong.step, "strong.step", &s.strong.step) },
    Rule {
        keys: &["strong.channel_queue_bytes", "limits.value_bytes"],
        broken: |s| below(s.strong.channel_queue_bytes < s.limits.value_bytes, "limits.value_bytes", &s.limits.value_bytes),
    },
    Rule {
        keys: &["strong.store_queue_bytes", "limits.value_bytes"],
        broken: |s| below(s.strong.store_queue_bytes < s.limits.value_bytes, "limits.value_bytes", &s.limits.value_bytes),
    },
    Rule {
        keys: &["peer.frame_bytes_max", "strong.page_bytes"],
        broken: |s| below(s.peer.frame_bytes_max < s.strong.page_bytes, "strong.page_bytes", &s.strong.page_bytes),
    },
    Rule { keys: &["council.election_timeout", "council.heartbeat"], broken: |s| hasty_election(s) },
];

fn below(is_below: bool, other: &str, value: &dyn std::fmt::Display) -> Option<String> {
    is_below.then(|| format!("must not be below {other}, which is \"{value}\""))
}

fn is_loopback(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
        IpAddr::V4(ip) => ip.is_loopback(),
    }
}

fn open_listener(settings: &NodeSettings, listen: SocketAddr) -> Option<String> {
    (!is_loopback(listen) && settings.auth.mode.is_none()).then(|| {
        "others can reach this listener, and no authentication is configured: set auth.mode = \"tokens\" and list tokens in [[auth.token]] \
         or in the cluster file, or listen on 127.0.0.1, or write auth.mode = \"none\" to let everybody do everything"
            .to_owned()
    })
}

fn tokens_without_mode(settings: &NodeSettings) -> Option<String> {
    (settings.auth.mode != Some(AuthMode::Tokens) && !settings.auth.token.is_empty())
        .then(|| "tokens are listed, but nobody would be asked for one: set auth.mode = \"tokens\", or remove them".to_owned())
}

fn same_listener(settings: &NodeSettings) -> Option<String> {
    let (admin, http) = (settings.admin.listen, settings.http.listen);
    let overlap =
        admin.ip() == http.ip() || (admin.is_ipv4() == http.is_ipv4() && (admin.ip().is_unspecified() || http.ip().is_unspecified()));
    (admin.port() != 0 && admin.port() == http.port() && overlap)
        .then(|| format!("http.listen is \"{http}\" already: give each its own port"))
}

fn join_without_identity(settings: &NodeSettings) -> Option<String> {
    (!settings.peer.join.is_empty() && settings.peer.identity().is_none()).then(|| {
        "joining others needs peer.ca, peer.cert and peer.key (make them with `isochrone certs ca` and `isochrone certs node`)".to_owned()
    })
}

fn advertised_nowhere(settings: &NodeSettings) -> Option<String> {
    let address: SocketAddr = settings.peer.advertise.as_ref()?.parse().ok()?;
    address.ip().is_unspecified().then(|| "others cannot reach this address: write a name or address of this machine".to_owned())
}

fn short_frame(settings: &NodeSettings) -> Option<String> {
    let value = settings.limits.value_bytes;
    let least = ByteSize::bytes(value.as_u64() + FRAME_EXTRA.as_u64());
    (settings.peer.frame_bytes_max < least)
        .then(|| format!("must be at least \"{least}\", to hold a value of limits.value_bytes (\"{value}\") and what goes with it"))
}

fn short_log(settings: &NodeSettings) -> Option<String> {
    let hints = settings.replication.hint_bytes_max;
    (settings.store.log_bytes_max <= hints).then(|| {
        format!(
            "must be above replication.hint_bytes_max, which is \"{hints}\", or writes are refused before a replica that is away lapses"
        )
    })
}

fn hasty_election(settings: &NodeSettings) -> Option<String> {
    let (AutoSpan::Fixed(election), AutoSpan::Fixed(heartbeat)) = (settings.council.election_timeout, settings.council.heartbeat) else {
        return None;
    };
    (election.duration() < heartbeat.duration() * 3)
        .then(|| format!("must be at least three times council.heartbeat, which is \"{heartbeat}\", or one late heartbeat ends a leader"))
}
