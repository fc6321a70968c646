//! The table of the node file: one block a key.

use crate::schema::{KeySpec, Kind, Schema, Section, Shape};
use crate::token_keys::TOKEN;
use crate::units::{ByteSize, Span};

const PATH: Kind = Kind::Text(Shape::Path);
const ADDRESS: Kind = Kind::Text(Shape::Address);
static HOST_PORT: Kind = Kind::Text(Shape::HostPort);

const fn bytes(min: ByteSize, max: ByteSize) -> Kind {
    Kind::Bytes { min, max }
}

const fn span(min: Span, max: Span) -> Kind {
    Kind::Span { min, max }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const HOUR: Span = Span::secs(3600);

/// For bounds that may be as good as none.
const CENTURY: Span = Span::secs(100 * 365 * 86_400);

/// The node file: what one daemon is, where it listens, and its bounds. Every queue, wait and store of the daemon is bounded by a
/// key of this table.
pub static NODE: Schema = Schema {
    doc: "\
Settings of one Isochrone daemon.

Each key stands here with its default; a key that is commented out has none. Only node.region has to be given.
The environment overrides this file: ISOCHRONE__HTTP__LISTEN sets http.listen. Flags override the environment.
Sizes and times are written in quotes with their unit: \"16MiB\", \"500ms\", \"10min\". Relative paths count from the directory of this file.
`isochrone config check` finds mistakes, `isochrone config show` tells each value in effect and where it came from.",
    sections: &[
        Section { name: "node", doc: "Who and where this daemon is.", keys: NODE_KEYS },
        Section { name: "http", doc: "The listener for clients, under /v1.", keys: HTTP },
        Section { name: "http.tls", doc: "HTTPS for clients: HTTP/1.1 and HTTP/2. Plain HTTP where it is left out.", keys: HTTP_TLS },
        Section { name: "admin", doc: "The listener for operators: metrics, health, members, placement.", keys: ADMIN },
        Section { name: "admin.tls", doc: "HTTPS for operators. Plain HTTP where it is left out.", keys: ADMIN_TLS },
        Section { name: "peer", doc: "QUIC between daemons, with certificates on both sides.", keys: PEER },
        Section { name: "auth", doc: "Who may do what on the client and admin listeners.", keys: AUTH },
        Section { name: "store", doc: "What this daemon keeps, on disk and in memory.", keys: STORE },
        Section { name: "limits", doc: "Bounds on what one request may ask for.", keys: LIMITS },
        Section { name: "replication", doc: "How writes reach the other replicas.", keys: REPLICATION },
        Section { name: "copies", doc: "Copies in memory of keys whose replicas are elsewhere (rule E10).", keys: COPIES },
        Section {
            name: "strong",
            doc: "The strong path: keys whose every write is chosen by a quorum (rules Q). Its moves keep to replication.move_bytes_per_second.",
            keys: STRONG,
        },
        Section { name: "council", doc: "The group that orders changes of the cluster. No read or write waits for it.", keys: COUNCIL },
        Section { name: "log", doc: "What the daemon tells about itself, on standard error.", keys: LOG },
        Section {
            name: "emulation",
            doc: "For development only: delays what this daemon sends to others, beneath QUIC, so that one machine feels like several regions.",
            keys: EMULATION,
        },
    ],
};

const NODE_KEYS: &[KeySpec] = &[
    KeySpec::new(
        "node.cluster",
        Kind::Text(Shape::Cluster),
        "The cluster that this daemon belongs to. It must be the one in its certificate (rule M2).",
    )
    .default("isochrone"),
    KeySpec::new(
        "node.region",
        Kind::Text(Shape::Region),
        "The region that this daemon is in: a failure and latency domain, such as a cloud region. Replicas go to distinct regions, so \
         a guess would be worse than none: it has no default.",
    )
    .required()
    .example("us-east"),
    KeySpec::new(
        "node.zone",
        Kind::Text(Shape::Zone),
        "The failure domain inside the region, such as an availability zone. Replicas that share a region avoid sharing a zone.",
    )
    .example("a"),
    KeySpec::new(
        "node.data_dir",
        PATH,
        "Where this daemon keeps its identity, its store and the council's log. It belongs to one daemon alone and survives it.",
    )
    .default("/var/lib/isochrone"),
    KeySpec::new(
        "node.capacity",
        count(1, 10_000),
        "How much of the data this daemon takes, where 100 is an ordinary node and 200 takes twice as much. Leave it alone while all \
         machines are alike.",
    )
    .default("100"),
];

const HTTP: &[KeySpec] = &[
    KeySpec::new(
        "http.listen",
        ADDRESS,
        "Where clients connect. Loopback, because a listener that others can reach needs authentication first (see [auth]). Port 0 takes \
         any free port.",
    )
    .default("127.0.0.1:8080"),
    KeySpec::new("http.threads", count(0, 1024), "Threads that serve clients, each with its own listening socket. 0 is one for each core.")
        .default("0"),
    KeySpec::new(
        "http.max_connections",
        count(1, 1_000_000),
        "Connections at a time, of this listener and of admin.listen each; a further one is answered 503 and closed, with TLS just closed. Each \
         open one may cost http.header_bytes of memory and a file descriptor (LimitNOFILE in the systemd unit).",
    )
    .default("10000"),
    KeySpec::new(
        "http.header_bytes",
        bytes(ByteSize::kib(8), ByteSize::mib(1)),
        "The longest request line and headers together; above it the answer is 431. 32KiB is what nginx allows, and holds any key.",
    )
    .default("32KiB"),
    KeySpec::new(
        "http.header_timeout",
        span(Span::millis(100), HOUR),
        "The longest that the headers of a request may take to arrive once they began; after it the answer is 408. Short, against clients that drip them.",
    )
    .default("10s"),
    KeySpec::new(
        "http.body_timeout",
        span(Span::millis(100), HOUR),
        "The longest pause inside a request's body; after it the answer is 408. Counts the pause, not the whole upload.",
    )
    .default("30s"),
    KeySpec::new(
        "http.request_timeout",
        span(Span::millis(100), HOUR),
        "The longest that a request may be worked on once its body is here; after it the answer is 503 for reads, 504 for writes. Reads and writes of \
         one key have shorter bounds in [limits], so that this one is for listings.",
    )
    .default("1min"),
    KeySpec::new(
        "http.idle_timeout",
        span(Span::millis(100), HOUR),
        "How long a connection may stay open between requests. 75s is what nginx does, longer than the 60s of common load balancers, so \
         that they close first.",
    )
    .default("75s"),
    KeySpec::new(
        "http.drain_timeout",
        span(Span::millis(0), HOUR),
        "At SIGTERM: how long requests in progress may take to end before their connections are closed. Keep it below the service \
         manager's own limit (90s with systemd).",
    )
    .default("30s"),
];

const HTTP_TLS: &[KeySpec] = &[
    KeySpec::new("http.tls.cert", PATH, "The certificate chain, PEM, leaf first. Its content is watched and reloaded.")
        .needs(&["http.tls.key"])
        .example("/etc/isochrone/http.pem"),
    KeySpec::new("http.tls.key", PATH, "The private key of that certificate, PEM.")
        .needs(&["http.tls.cert"])
        .example("/etc/isochrone/http.key"),
];

const ADMIN: &[KeySpec] =
    &[KeySpec::new("admin.listen", ADDRESS, "Where operators and Prometheus connect. Loopback for the same reason as http.listen.")
        .default("127.0.0.1:9090")];

const ADMIN_TLS: &[KeySpec] = &[
    KeySpec::new("admin.tls.cert", PATH, "The certificate chain, PEM, leaf first. Its content is watched and reloaded.")
        .needs(&["admin.tls.key"])
        .example("/etc/isochrone/admin.pem"),
    KeySpec::new("admin.tls.key", PATH, "The private key of that certificate, PEM.")
        .needs(&["admin.tls.cert"])
        .example("/etc/isochrone/admin.key"),
];

const PEER: &[KeySpec] = &[
    KeySpec::new(
        "peer.listen",
        ADDRESS,
        "Where other daemons connect, over UDP. Open to the network, because only a certificate of this cluster is let in (rule M2).",
    )
    .default("0.0.0.0:7946"),
    KeySpec::new(
        "peer.advertise",
        HOST_PORT,
        "How other daemons reach this one. Without it, they are told the address of the interface that leads to them; behind NAT or in a \
         container that is the wrong one.",
    )
    .example("node1.example.net:7946"),
    KeySpec::new(
        "peer.join",
        Kind::List { item: &HOST_PORT, max: 64 },
        "Daemons to join through, any of them and in any order; tried until one answers. Empty begins a cluster of its own. Not looked at \
         once this daemon is a member.",
    )
    .default(""),
    KeySpec::new("peer.ca", PATH, "The CA bundle that other daemons' certificates must come from, PEM. Old and new may overlap in it. Reloaded.")
        .needs(&["peer.cert", "peer.key"])
        .example("/etc/isochrone/ca.pem"),
    KeySpec::new(
        "peer.cert",
        PATH,
        "This daemon's certificate, PEM, as made by `isochrone certs node`. It says which node this is (rule M2), so `serve` asks for ca, cert and \
         key of a cluster of one too. Reloaded.",
    )
    .needs(&["peer.ca", "peer.key"])
    .example("/etc/isochrone/node.pem"),
    KeySpec::new("peer.key", PATH, "The private key of that certificate, PEM. Reloaded.")
        .needs(&["peer.ca", "peer.cert"])
        .example("/etc/isochrone/node.key"),
    KeySpec::new(
        "peer.gateways",
        count(1, 16),
        "How many daemons a region lets gossip with other regions (rule M5). Two, so that one may fail. Give all daemons the same.",
    )
    .default("2"),
    KeySpec::new(
        "peer.frame_bytes_max",
        bytes(ByteSize::kib(64), ByteSize::gib(1)),
        "The longest message between daemons. It has to hold a value of limits.value_bytes and 64KiB of what goes with it.",
    )
    .default("20MiB"),
    KeySpec::new(
        "peer.calls_max",
        count(16, 1_000_000),
        "Calls of other daemons that are worked on at a time; a further one is refused at once as busy, instead of piling up.",
    )
    .default("1024"),
    KeySpec::new(
        "peer.streams_max",
        count(16, 65_536),
        "Calls and streams that one other daemon may have open here at a time; further ones wait there.",
    )
    .default("1024"),
    KeySpec::new(
        "peer.call_deadline",
        span(Span::millis(10), Span::secs(600)),
        "The longest that a call to another daemon may take, whatever its caller would wait. Many times the longest round trip on Earth, so \
         that only a dead link meets it.",
    )
    .default("5s"),
    KeySpec::new(
        "peer.retry_budget",
        Kind::Number { min: 0.0, max: 1.0 },
        "Retries and hedged calls as a share of all calls (rule M8). A tenth, so that a slow region cannot be stormed.",
    )
    .default("0.1"),
    KeySpec::new(
        "peer.idle_timeout",
        span(Span::millis(500), Span::secs(600)),
        "How long a connection to another daemon may stay silent before it counts as lost. Keep-alives go out four times as often.",
    )
    .default("10s"),
    KeySpec::new(
        "peer.reconnect_min",
        span(Span::millis(1), Span::secs(600)),
        "The first pause before a lost connection is tried again; it doubles each time. Short, so that a restarted daemon is found at once.",
    )
    .default("50ms"),
    KeySpec::new(
        "peer.reconnect_max",
        span(Span::millis(1), Span::secs(600)),
        "The longest pause between two tries. One packet a second to a daemon that is away costs nothing.",
    )
    .default("1s"),
];

const AUTH: &[KeySpec] = &[
    KeySpec::new(
        "auth.mode",
        Kind::Choice(&["tokens", "none"]),
        "\"tokens\" asks every request for a bearer token listed here or in the cluster file; \"none\" lets everybody do everything, and has to \
         be written out. Unset, only loopback listeners are allowed, and they are open to whoever is on the machine.",
    )
    .example("tokens"),
    KeySpec::new("auth.token", Kind::Tables(TOKEN), "Tokens that this daemon alone knows, beside those of the cluster file.").default("").live(),
];

const STORE: &[KeySpec] = &[
    KeySpec::new(
        "store.disk_bytes",
        bytes(ByteSize::mib(16), ByteSize::gib(1 << 20)),
        "The most that is kept on disk, by the store's own count; above it writes are refused with 507 and reads go on. The file takes up to twice as \
         much, because pages are copied when they change: set it below half of the volume.",
    )
    .default("20GiB"),
    KeySpec::new(
        "store.evictable_bytes",
        bytes(ByteSize::mib(1), ByteSize::gib(1 << 20)),
        "The part of it that evictable namespaces may take; above it their oldest entries make room.",
    )
    .default("4GiB"),
    KeySpec::new(
        "store.memory_bytes",
        bytes(ByteSize::mib(1), ByteSize::gib(1 << 20)),
        "Memory for copies of what is read often: keys, values and their index together. Everything else takes about 100MiB.",
    )
    .default("256MiB"),
    KeySpec::new(
        "store.batch_max",
        count(1, 65_536),
        "Writes that share one sync. 256 was the knee of the measured curve; more adds delay without adding writes.",
    )
    .default("256"),
    KeySpec::new(
        "store.queue_max",
        count(1, 1_000_000),
        "Writes that may wait for the disk; beyond it they are refused with 429, which promises that nothing happened.",
    )
    .default("4096"),
    KeySpec::new(
        "store.sync_interval",
        span(Span::millis(1), Span::millis(50)),
        "The longest that a write which nobody waits for stays unsynced. An acknowledged write to a durable namespace is synced before the answer.",
    )
    .default("50ms"),
    KeySpec::new(
        "store.log_bytes_max",
        bytes(ByteSize::mib(1), ByteSize::gib(1 << 20)),
        "The most that writes which some replica has not confirmed may take on disk; above it writes are refused with 507. The hard end: a replica \
         that is away lapses at replication.hint_bytes_max, which has to be less, so that only writes faster than any replica takes them get here.",
    )
    .default("1GiB"),
];

const LIMITS: &[KeySpec] = &[
    KeySpec::new(
        "limits.value_bytes",
        bytes(ByteSize::kib(1), ByteSize::mib(512)),
        "The largest value; above it the answer is 413 and nothing is stored. A namespace may set less. Keys have at most 1,024 bytes, always.",
    )
    .default("16MiB"),
    KeySpec::new(
        "limits.idempotency_ttl",
        span(Span::secs(1), Span::secs(86_400)),
        "How long the answer to a write with an Idempotency-Key is remembered, so that a repeat applies once.",
    )
    .default("10min"),
    KeySpec::new("limits.list_max", count(1, 10_000), "The most keys on one page of a listing.").default("1000"),
    KeySpec::new("limits.batch_lines_max", count(1, 1_000_000), "The most lines of one batch; the first one above it is answered with 413, and those after it are not read.").default("10000"),
    KeySpec::new(
        "limits.batch_bytes_max",
        bytes(ByteSize::kib(1), ByteSize::gib(1)),
        "The longest body of one batch; above it the answer is 413, that of the last line where no Content-Length told it beforehand.",
    )
    .default("64MiB"),
    KeySpec::new(
        "limits.body_bytes_in_flight",
        bytes(ByteSize::mib(1), ByteSize::gib(1024)),
        "Memory for the request bodies of all clients together, from their Content-Length, or first byte where there is none, to their answer; beyond \
         it requests are refused with 503 until some are done.",
    )
    .default("256MiB"),
    KeySpec::new(
        "limits.read_deadline",
        span(Span::millis(10), Span::secs(600)),
        "How long a read may take before it is answered with 503, other replicas tried in between.",
    )
    .default("5s"),
    KeySpec::new(
        "limits.write_deadline",
        span(Span::millis(10), Span::secs(600)),
        "How long a write may take before it is answered with 503 if nothing happened, or 504 if that is unknown.",
    )
    .default("10s"),
    KeySpec::new(
        "limits.session_wait",
        span(Span::millis(0), Span::secs(60)),
        "How long a read with a session token may wait here for what the session has seen, replicas that are ahead asked in between, before it is \
         answered with 503 (rule E9).",
    )
    .default("2s"),
    KeySpec::new(
        "limits.set_members",
        count(1, 100_000),
        "The most members of a set; an addition beyond it is answered with 413 (rule E12). Replicas merge whole sets: 100,000 members took 77ms. A \
         namespace may say otherwise.",
    )
    .default("10000"),
    KeySpec::new(
        "limits.member_bytes",
        bytes(ByteSize::bytes(16), ByteSize::kib(64)),
        "The longest member of a set and the longest name of a map's field; above it the answer is 413.",
    )
    .default("1KiB"),
    KeySpec::new(
        "limits.map_fields",
        count(1, 100_000),
        "The most fields of a map; one beyond it is answered with 413. Its fields together are bounded by limits.value_bytes too.",
    )
    .default("1000"),
    KeySpec::new(
        "limits.register_values",
        count(1, 1000),
        "The most values that a register may hold side by side; a further write without a context is answered with 413 until somebody has read them \
         and replaced them by one.",
    )
    .default("64"),
];

const REPLICATION: &[KeySpec] = &[
    KeySpec::new(
        "replication.heartbeat",
        span(Span::millis(10), Span::secs(10)),
        "How often a stream of writes to a replica says that it is alive when there is nothing to send. It bounds how stale an answer can be told to be.",
    )
    .default("100ms"),
    KeySpec::new(
        "replication.window",
        count(1, 4096),
        "Batches on their way to one replica that it has not confirmed yet: enough to fill a long fat link (64 of 1MiB fill 2Gbit/s at 250ms).",
    )
    .default("64"),
    KeySpec::new(
        "replication.batch_bytes",
        bytes(ByteSize::kib(4), ByteSize::mib(64)),
        "Writes are sent to a replica in batches of about this size, sooner when the link is free.",
    )
    .default("1MiB"),
    KeySpec::new(
        "replication.resend_min",
        span(Span::millis(10), Span::secs(600)),
        "The first pause before a broken stream of writes to a replica is opened again, and sends what was not confirmed; it doubles each time.",
    )
    .default("200ms"),
    KeySpec::new(
        "replication.resend_max",
        span(Span::millis(10), Span::secs(600)),
        "The longest such pause. A replica that comes back gets what it missed from at most this much later on.",
    )
    .default("2s"),
    KeySpec::new(
        "replication.clock_ahead_max",
        span(Span::millis(1), Span::secs(60)),
        "A write stamped further in the future than this is refused (rule E4). Expiry is held back by the same bound (rule E8).",
    )
    .default("500ms"),
    KeySpec::new(
        "replication.clock_ahead_alarm",
        span(Span::millis(1), Span::secs(60)),
        "A clock further ahead than this is logged and counted (rule E4). Well-run NTP stays within 10ms.",
    )
    .default("100ms"),
    KeySpec::new(
        "replication.move_bytes_per_second",
        bytes(ByteSize::kib(64), ByteSize::gib(100)),
        "How fast one daemon copies slots that move to it, per second, so that a move leaves the network to clients.",
    )
    .default("64MiB"),
    KeySpec::new(
        "replication.hint_bytes_max",
        bytes(ByteSize::kib(64), ByteSize::gib(1 << 20)),
        "The most that writes kept for replicas that are away may take on disk. Beyond it the replica that lacks most lapses: nothing more is kept for it, \
         and anti-entropy gives it what it missed (rule E5). `isochrone status` tells.",
    )
    .default("512MiB"),
    KeySpec::new(
        "replication.hint_age_max",
        span(Span::secs(1), CENTURY),
        "How long writes are kept for a replica that is away, before it lapses in the same way.",
    )
    .default("6h"),
    KeySpec::new(
        "replication.repair_interval_min",
        span(Span::millis(100), Span::secs(86_400)),
        "The shortest pause between two rounds of anti-entropy with one replica (rule E6). Each pause is drawn at random, so that daemons do not keep step.",
    )
    .default("30s"),
    KeySpec::new(
        "replication.repair_interval_max",
        span(Span::millis(100), Span::secs(86_400)),
        "The longest such pause. A difference that nothing else has closed is found by then; where there is none, a round costs a few bytes a slot.",
    )
    .default("1min"),
    KeySpec::new(
        "replication.repair_bytes_per_second",
        bytes(ByteSize::kib(64), ByteSize::gib(100)),
        "How fast one daemon takes what anti-entropy found missing, per second, so that a repair leaves the network to clients.",
    )
    .default("32MiB"),
    KeySpec::new(
        "replication.repair_page_bytes",
        bytes(ByteSize::kib(4), ByteSize::mib(16)),
        "Keys and states that differ are sent in pages of about this size; a larger state goes alone.",
    )
    .default("256KiB"),
];

const COPIES: &[KeySpec] = &[
    KeySpec::new(
        "copies.bytes",
        bytes(ByteSize::bytes(0), ByteSize::gib(1 << 20)),
        "The part of memory, beside store.memory_bytes, for copies of keys whose replicas are elsewhere: keys, values and their index together. 0 turns \
         them off, and each read of such a key asks a replica.",
    )
    .default("64MiB"),
    KeySpec::new(
        "copies.subscribers_max",
        count(1, 65_536),
        "Daemons that this one tells of changes to the keys that they hold copies of; a further one is refused, and reads without copies.",
    )
    .default("256"),
    KeySpec::new(
        "copies.queue",
        count(16, 1_000_000),
        "Changes that may wait for one such daemon. Beyond it its stream is closed, so that it drops its copies and starts over, instead of holding \
         memory here.",
    )
    .default("4096"),
];

const STRONG: &[KeySpec] = &[
    KeySpec::new(
        "strong.deadline",
        span(Span::millis(10), Span::secs(600)),
        "How long a strong read or write may take: after it, it is answered with 503 if nothing happened, or 504 if that is unknown (rule Q10). Many \
         round trips across the Earth, so that only a cut meets it.",
    )
    .default("2s"),
    KeySpec::new(
        "strong.step",
        span(Span::millis(10), Span::secs(60)),
        "How long one round of messages waits for a quorum before it is begun again with a new ballot. Above the longest round trip, or rounds that \
         are still under way are given up.",
    )
    .default("500ms"),
    KeySpec::new(
        "strong.queue",
        count(1, 1_000_000),
        "Reads and writes that may wait for one key at this daemon; a further one is refused with 429. They are carried out together, so that many \
         callers of one key cost one round.",
    )
    .default("1024"),
    KeySpec::new(
        "strong.ring",
        count(16, 65_536),
        "Writes of one key that are remembered, each until its request can no longer be repeated: limits.idempotency_ttl with an Idempotency-Key, a \
         second past its deadline without. With so many, further writes of that key are refused with 429 (rule Q11). Each takes some 40 bytes beside \
         the value, in every replica.",
    )
    .default("1024"),
    KeySpec::new(
        "strong.fences",
        count(1, 1024),
        "Locks whose tokens one key remembers (rule L5); a write that shows the token of a further one is refused with 429. Most keys are guarded by \
         one lock.",
    )
    .default("16"),
    KeySpec::new(
        "strong.warm_keys",
        count(1, 16_777_216),
        "Keys that this daemon has written last and remembers, so that it writes them again in one round trip (rule Q8). The least recently written \
         give way.",
    )
    .default("65536"),
    KeySpec::new(
        "strong.grant_keys",
        count(1, 16_777_216),
        "Keys that a slot may have for its owner to be promised all of them at once (rule Q18); a slot with more is written key by key, the first \
         time in two round trips.",
    )
    .default("65536"),
    KeySpec::new(
        "strong.page_keys",
        count(1, 65_536),
        "Keys on one page, when a slot's keys are listed for its owner, for a listing or for a move.",
    )
    .default("256"),
    KeySpec::new(
        "strong.page_bytes",
        bytes(ByteSize::kib(4), ByteSize::mib(16)),
        "Bytes of such a page, about; a larger key goes alone.",
    )
    .default("1MiB"),
    KeySpec::new(
        "strong.channel_queue",
        count(16, 1_000_000),
        "Messages that may wait for one other daemon; beyond it they are dropped, which costs what a lost packet costs.",
    )
    .default("16384"),
    KeySpec::new(
        "strong.channel_queue_bytes",
        bytes(ByteSize::mib(1), ByteSize::gib(64)),
        "Bytes of such messages, for each other daemon. It has to hold a value of limits.value_bytes.",
    )
    .default("64MiB"),
    KeySpec::new(
        "strong.memory_bytes",
        bytes(ByteSize::mib(1), ByteSize::gib(1 << 20)),
        "Memory for pages of the strong store's file, beside store.memory_bytes.",
    )
    .default("64MiB"),
    KeySpec::new(
        "strong.store_queue",
        count(1, 1_000_000),
        "Rows of the strong store that may wait for the disk; beyond it requests are refused with 429, and those of other daemons wait for their next \
         try.",
    )
    .default("16384"),
    KeySpec::new(
        "strong.store_queue_bytes",
        bytes(ByteSize::mib(1), ByteSize::gib(64)),
        "Bytes of such rows. It has to hold a value of limits.value_bytes.",
    )
    .default("64MiB"),
    KeySpec::new(
        "strong.copies",
        count(0, 16_777_216),
        "Keys whose last known value this daemon keeps for reads at level local (rule Q17); the least recently used give way. 0 keeps none, and each \
         such read asks a quorum.",
    )
    .default("65536"),
    KeySpec::new(
        "strong.local_age_max",
        span(Span::secs(0), Span::secs(86_400)),
        "How long ago such a value may have been confirmed; an older one is read anew from a quorum.",
    )
    .default("10s"),
    KeySpec::new(
        "strong.forget_every",
        span(Span::millis(1), Span::secs(3600)),
        "How often this daemon looks through one of its slots for deleted and expired keys that nobody needs any more (rule Q16), one slot after the \
         other.",
    )
    .default("1s"),
    KeySpec::new(
        "strong.own_window",
        span(Span::millis(100), Span::secs(3600)),
        "How long writes are counted before a slot's ownership may follow them: two such windows in a row have to agree (rule Q18).",
    )
    .default("5s"),
    KeySpec::new(
        "strong.move_keys",
        count(1, 65_536),
        "Keys that are carried over at a time, of all slots together, while slots move to other replicas (rule Q14).",
    )
    .default("256"),
    KeySpec::new(
        "strong.move_slots",
        count(1, 4096),
        "Slots that move at a time.",
    )
    .default("1024"),
];

const COUNCIL: &[KeySpec] = &[
    KeySpec::new(
        "council.heartbeat",
        Kind::AutoSpan { min: Span::millis(10), max: Span::secs(10) },
        "How often the leader says that it is alive. \"auto\" is 200ms, or a fifth of a shorter election_timeout.",
    )
    .default("auto"),
    KeySpec::new(
        "council.election_timeout",
        Kind::AutoSpan { min: Span::millis(50), max: Span::secs(60) },
        "How long a voter waits for a sign of the leader before it stands itself; a random wait that follows the measured round trips comes on \
         top, so that two seldom stand at once. \"auto\" is 1s, for round trips up to 300ms, or five times a longer heartbeat.",
    )
    .default("auto"),
    KeySpec::new(
        "council.snapshot_every",
        count(10, 100_000),
        "Log entries after which a snapshot is made and the log cut. Entries are few and small; a daemon that joins reads about twice as many at most.",
    )
    .default("1000"),
    KeySpec::new(
        "council.propose_deadline",
        span(Span::millis(100), Span::secs(600)),
        "How long a change of the cluster may take, an election in between included, before it is answered with 503 or 504.",
    )
    .default("10s"),
    KeySpec::new(
        "council.settle",
        span(Span::millis(0), Span::secs(60)),
        "How long the council waits after a member joined or left for others to do so too, before it places the data anew.",
    )
    .default("200ms"),
    KeySpec::new(
        "council.away_max",
        span(Span::secs(10), CENTURY),
        "A member that nobody has heard for so long is removed: its keys are replicated elsewhere, and tombstones no longer wait for it (rule E7). If \
         it comes back, it starts over with an empty store. \"36500d\" is never, and lets tombstones pile up.",
    )
    .default("72h"),
];

const LOG: &[KeySpec] = &[
    KeySpec::new(
        "log.filter",
        Kind::Text(Shape::Label),
        "What is logged: a level (error, warn, info, debug, trace), or levels by part such as \"info,isochrone_gossip=debug\". The council's engine tells every heartbeat at info.",
    )
    .default("info,openraft=warn")
    .live(),
    KeySpec::new("log.format", Kind::Choice(&["text", "json"]), "\"text\" for people, \"json\" for collectors, one object a line.")
        .default("text"),
];

static LINK: &[KeySpec] = &[
    KeySpec::new("address", ADDRESS, "The peer.listen address of the other daemon, as it is reached.")
        .required()
        .unique()
        .example("127.0.0.1:7947"),
    KeySpec::new("region", Kind::Text(Shape::Region), "The region that the other daemon is in, for the log.").required().example("eu-west"),
    KeySpec::new("one_way", span(Span::millis(0), Span::secs(10)), "How long a packet takes there: half the round trip.")
        .required()
        .example("37.5ms"),
    KeySpec::new("jitter", span(Span::millis(0), Span::secs(10)), "How much longer it takes on average, at random.").default("0s"),
    KeySpec::new("loss", Kind::Number { min: 0.0, max: 1.0 }, "The share of packets that is lost, at random.").default("0.0"),
];

const EMULATION: &[KeySpec] = &[
    KeySpec::new("emulation.enabled", Kind::Bool, "Whether packets are delayed at all. Never in production.").default("false"),
    KeySpec::new("emulation.links", Kind::Tables(LINK), "The other daemons and how far away they are to feel.").default("").live(),
];
