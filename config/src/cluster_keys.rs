//! The table of the cluster file: one block a key.

use crate::schema::{KeySpec, Kind, Schema, Section, Shape};
use crate::token_keys::TOKEN;
use crate::units::{ByteSize, Span};

const TTL: Kind = Kind::Span { min: Span::millis(1), max: Span::secs(100 * 365 * 86_400) };

/// The cluster file: what all daemons agree on, ordered by the council.
pub static CLUSTER: Schema = Schema {
    doc: "\
What all daemons of an Isochrone cluster agree on. Apply it with `isochrone apply cluster.toml`, after a look with --dry-run.

Everything here is commented out: it shows what can be written. The namespaces cache (eventual, evictable), data (eventual, durable) and \
strong (strong) are always there; list one only to change its other settings.
Sizes and times are written in quotes with their unit: \"16MiB\", \"500ms\", \"10min\".",
    sections: &[Section { name: "", doc: "", keys: KEYS }],
};

const KEYS: &[KeySpec] = &[
    KeySpec::new("cluster", Kind::Text(Shape::Cluster), "The cluster that this file is meant for; another one refuses it. Unset fits any.")
        .example("isochrone"),
    KeySpec::new("namespace", Kind::Tables(NAMESPACE), "Key spaces beside the three built-in ones.").default(""),
    KeySpec::new(
        "token",
        Kind::Tables(TOKEN),
        "Bearer tokens that every daemon knows. Every daemon reads this text, so sha256_file is filled in by `isochrone apply`.",
    )
    .default(""),
];

static NAMESPACE: &[KeySpec] = &[
    KeySpec::new("name", Kind::Text(Shape::Namespace), "The namespace's name, as in /v1/kv/{name}; once in a file.").required().unique().example("profiles"),
    KeySpec::new(
        "mode",
        Kind::Choice(&["eventual", "strong"]),
        "\"eventual\": taken by any daemon, even one that is cut off, and converging. \"strong\": chosen by a quorum, linearizable. Fixed for ever \
         once the namespace exists.",
    )
    .required()
    .example("eventual"),
    KeySpec::new(
        "kind",
        Kind::Choice(&["durable", "evictable"]),
        "For eventual namespaces: \"durable\" is synced before it is acknowledged and kept; \"evictable\" may go when room is short. Unset is durable; \
         for the built-in cache, evictable.",
    )
    .example("durable"),
    KeySpec::new(
        "replicas",
        Kind::Integer { min: 1, max: 7 },
        "How many daemons keep each key, in distinct regions while there are enough. Three survive the loss of any one.",
    )
    .default("3"),
    KeySpec::new("ttl_default", TTL, "How long a key lives when the write says nothing. Unset is for ever.").example("1h"),
    KeySpec::new("ttl_max", TTL, "The longest that a write may ask for; a longer one, or none, is cut to it. Unset is for ever.").example("30d"),
    KeySpec::new(
        "value_bytes",
        Kind::Bytes { min: ByteSize::bytes(1), max: ByteSize::mib(512) },
        "The largest value. Unset, and at most, it is limits.value_bytes of the daemon that takes the write.",
    )
    .example("1MiB"),
    KeySpec::new(
        "max_staleness",
        TTL,
        "How old an answer at level local may be; where only older ones can be given, as in a region that is cut off, the answer is 503 (rule E10). Much \
         below a second it refuses reads that are as fresh as distance allows. Unset is no bound.",
    )
    .example("30s"),
    KeySpec::new(
        "set_members",
        Kind::Integer { min: 1, max: 100_000 },
        "For eventual namespaces: the most members of a set (rule E12). Unset is limits.set_members of the daemon that takes the write.",
    )
    .example("10000"),
];
