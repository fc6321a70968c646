//! Read copies in a simulated cluster (E10): how soon a copy goes, what it says of its age, and what a region that is cut off serves. Each rule is
//! broken once on purpose, and the same script must see it.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use isochrone::node::{Mutation, Node};
use isochrone_edge::{Backend, Glance, Level, Operator, Preconditions, ReadCommand, Refusal, Served, Source, WriteCommand, WriteOp};
use isochrone_ident::{Key, Namespace};
use tests::cluster::{self, node_id};
use tests::run::Plan;
use tests::shape::Shape;
use tests::shared::{Shared, elapsed, lock};
use tokio::time::{Instant, sleep};
use turmoil::Sim;

/// Keys with one replica, so that the other regions read copies; `strict` ones may not be old.
const CLUSTER_FILE: &str = "[[namespace]]\nname = \"solo\"\nmode = \"eventual\"\nreplicas = 1\n\n\
    [[namespace]]\nname = \"strict\"\nmode = \"eventual\"\nreplicas = 1\nmax_staleness = \"3s\"\n";
const REPLICA: usize = 0;
const READER: usize = 2;
/// When every daemon knows every other, and the slots have come to rest.
const SETTLED: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);
/// What may come on top of the one-way delay.
const SLACK: Duration = Duration::from_millis(10);

/// What the hosts tell each other, and what was wrong.
#[derive(Default)]
struct Book {
    /// When the newest write of a key was acknowledged.
    written: Mutex<Vec<(String, Bytes, Duration)>>,
    wrong: Mutex<Vec<String>>,
    done: Mutex<usize>,
}

impl Book {
    fn wrong(&self, what: &str) {
        lock(&self.wrong).push(format!("at {:.3} s: {what}", elapsed().as_secs_f64()));
    }

    fn expect(&self, holds: bool, what: &str) {
        if !holds {
            self.wrong(what);
        }
    }

    /// An answer that claims an age must show what was acknowledged longer ago than that.
    fn check_age(&self, name: &str, served: &Served) {
        let Some(age_ms) = served.receipt.age_ms else { return };
        let asked = elapsed();
        let old_enough = |at: &Duration| *at + Duration::from_millis(age_ms) < asked;
        let written = lock(&self.written);
        let due = written.iter().rfind(|(key, _, at)| key == name && old_enough(at));
        let shown = served.object.as_ref().map(|object| object.value.clone());
        let later = |value: &Bytes| {
            written.iter().any(|(key, written, at)| key == name && written == value && due.is_some_and(|(_, _, due)| at >= due))
        };
        if due.is_some() && !shown.as_ref().is_some_and(later) {
            let shown = shown.map(|value| value.slice(..value.len().min(8)));
            drop(written);
            self.wrong(&format!("{name} shows {shown:?}, said to be {age_ms} ms old at most"));
        }
    }
}

struct Client<'a> {
    node: &'a Node,
    book: &'a Book,
}

impl Client<'_> {
    async fn read(&self, ns: &str, key: &str) -> Result<Served, Refusal> {
        let (ns, key) = (namespace(ns), Key::new(key.to_owned()).expect("a key"));
        let name = key.to_string();
        let served = match self.node.glance(&ns, key.as_bytes(), Level::Local, None) {
            Glance::Answer(served) => served,
            Glance::Ask => {
                let deadline = Instant::now() + PATIENCE;
                self.node.read(ReadCommand { ns, key, level: Level::Local, session: None, deadline, for_update: false }).await?
            }
        };
        self.book.check_age(&name, &served);
        Ok(served)
    }

    /// Reads until the answer comes from a copy.
    async fn prime(&self, ns: &str, key: &str) {
        for _ in 0..200 {
            if self.read(ns, key).await.is_ok_and(|served| served.source == Source::Hit) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.book.wrong(&format!("{key} is never served from a copy"));
    }

    async fn write(&self, ns: &str, key: &str, value: Bytes) {
        let op = WriteOp::Put { value: value.clone(), content_type: None, ttl: None };
        let command = WriteCommand {
            ns: namespace(ns),
            key: Key::new(key.to_owned()).expect("a key"),
            op,
            preconditions: Preconditions::default(),
            idempotency_key: None,
            fingerprint: 0,
            level: Level::Local,
            session: None,
            deadline: Instant::now() + PATIENCE,
        };
        match self.node.write(command).await {
            Ok(_) => lock(&self.book.written).push((key.to_owned(), value, elapsed())),
            Err(refusal) => self.book.wrong(&format!("a write was refused: {refusal}")),
        }
    }

    /// A key whose one replica is [`REPLICA`], the same on every host.
    fn key(&self, shape: &Shape, ns: &str, stem: &str) -> String {
        let replica = node_id(shape, REPLICA, 0).to_string();
        let is_there = |key: &String| {
            let key = Key::new(key.clone()).expect("a key");
            let placement = Operator::placement_of(self.node, &namespace(ns), &key);
            placement.is_ok_and(|placement| placement.replicas.iter().any(|held| held.node == replica))
        };
        (0..1000).map(|n| format!("{stem}-{n}")).find(is_there).expect("one of so many")
    }
}

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).expect("a name")
}

fn value_of(served: Result<&Served, &Refusal>) -> Option<Bytes> {
    served.ok().and_then(|served| served.object.as_ref()).map(|object| object.value.clone())
}

/// Runs what the replica's and the reader's hosts do from [`SETTLED`] on, and gives what was wrong.
fn play<W, R>(
    seed: u64,
    mutation: Option<Mutation>,
    writer: impl Fn(Arc<Shared>, Node, Arc<Book>) -> W + 'static,
    reader: impl Fn(Arc<Shared>, Node, Arc<Book>) -> R + 'static,
) -> Vec<String>
where
    W: Future<Output = ()> + 'static,
    R: Future<Output = ()> + 'static,
{
    let shape = Shape::of(3, 1, false, seed);
    let plan = Plan { mutation, ..Plan::new(seed, Duration::ZERO) };
    let mut shared = Shared::new(&plan, shape);
    CLUSTER_FILE.clone_into(&mut shared.cluster_file);
    let (shared, book) = (Arc::new(shared), Arc::new(Book::default()));
    let mut builder = turmoil::Builder::new();
    builder.rng_seed(seed).tick_duration(Duration::from_millis(1)).simulation_duration(Duration::MAX).udp_capacity(65_536);
    let mut sim: Sim<'static> = builder.build();
    let (writer, reader) = (Arc::new(writer), Arc::new(reader));
    for n in 0..shared.shape.nodes.len() {
        let (hosted, book, writer, reader) = (Arc::clone(&shared), Arc::clone(&book), Arc::clone(&writer), Arc::clone(&reader));
        sim.host(shared.shape.nodes[n].name.as_str(), move || {
            let (shared, book, writer, reader) = (Arc::clone(&hosted), Arc::clone(&book), Arc::clone(&writer), Arc::clone(&reader));
            async move {
                let node = cluster::start(&shared, n).await?;
                sleep(SETTLED.saturating_sub(elapsed())).await;
                match n {
                    REPLICA => writer(shared, node.clone(), Arc::clone(&book)).await,
                    READER => reader(shared, node.clone(), Arc::clone(&book)).await,
                    _ => {}
                }
                *lock(&book.done) += 1;
                std::future::pending::<turmoil::Result>().await
            }
        });
        shared.address(sim.lookup(shared.shape.nodes[n].name.as_str()), n);
    }
    for a in 0..shared.shape.nodes.len() {
        for b in 0..a {
            let (name, other, delay) = (shared.shape.nodes[a].name.as_str(), shared.shape.nodes[b].name.as_str(), shared.shape.delay(a, b));
            sim.set_link_latency(name, other, delay);
            sim.set_link_max_message_latency(name, other, delay + delay / 50);
        }
    }
    while *lock(&book.done) < shared.shape.nodes.len() && sim.elapsed() < Duration::from_secs(120) {
        sim.step().expect("no host fails");
    }
    book.expect(*lock(&book.done) == shared.shape.nodes.len(), "the script did not come to its end");
    drop(sim);
    lock(&book.wrong).clone()
}

/// Runs on a thread of its own, with room for the whole cluster.
fn alone(run: impl FnOnce() -> Vec<String> + Send + 'static) -> Vec<String> {
    let thread = std::thread::Builder::new().name("seed 1".to_owned()).stack_size(8 << 20).spawn(run).expect("a thread");
    thread.join().expect("no panic")
}

/// Sleeps until that long after [`SETTLED`].
async fn at(millis: u64) {
    sleep((SETTLED + Duration::from_millis(millis)).saturating_sub(elapsed())).await;
}

/// A write takes a copy away within the one-way delay; own writes are seen at once; an absence is a copy too.
fn invalidations(mutation: Option<Mutation>) -> Vec<String> {
    play(
        1,
        mutation,
        |shared, node, book| async move {
            let client = Client { node: &node, book: &book };
            let key = client.key(&shared.shape, "solo", "hot");
            client.write("solo", &key, Bytes::from_static(b"one")).await;
            at(5_000).await;
            client.write("solo", &key, Bytes::from_static(b"two")).await;
            at(8_000).await;
            client.write("solo", &client.key(&shared.shape, "solo", "absent"), Bytes::from_static(b"there")).await;
        },
        |shared, node, book| async move {
            let client = Client { node: &node, book: &book };
            let key = client.key(&shared.shape, "solo", "hot");
            at(1_000).await;
            client.prime("solo", &key).await;
            let absent = client.key(&shared.shape, "solo", "absent");
            client.prime("solo", &absent).await;
            at(4_900).await;
            let allowed = SETTLED + Duration::from_millis(5_000) + shared.shape.delay(REPLICA, READER).mul_f64(1.02) + SLACK;
            while elapsed() < SETTLED + Duration::from_millis(7_000) {
                let began = elapsed();
                let served = client.read("solo", &key).await;
                let is_old = value_of(served.as_ref()).as_deref() == Some(b"one");
                book.expect(!is_old || began <= allowed, "the copy outlived the one-way delay");
                let told = served.is_ok_and(|served| served.source != Source::Hit || served.receipt.age_ms.is_some_and(|age| age < 1_000));
                book.expect(told, "a copy whose stream lives tells a small age");
                sleep(Duration::from_millis(1)).await;
            }
            at(9_000).await;
            let found = client.read("solo", &absent).await;
            book.expect(value_of(found.as_ref()).as_deref() == Some(b"there"), "an absence that was copied ends with the write");
            client.prime("solo", &key).await;
            client.write("solo", &key, Bytes::from_static(b"own")).await;
            let own = client.read("solo", &key).await;
            book.expect(value_of(own.as_ref()).as_deref() == Some(b"own"), "an own write is seen at once");
        },
    )
}

/// An answer of many packets is on its way when its key is written: the invalidation arrives first.
fn overtaken(mutation: Option<Mutation>) -> Vec<String> {
    play(
        2,
        mutation,
        |shared, node, book| async move {
            let client = Client { node: &node, book: &book };
            client.write("solo", &client.key(&shared.shape, "solo", "prime"), Bytes::from_static(b"small")).await;
            let key = client.key(&shared.shape, "solo", "large");
            client.write("solo", &key, Bytes::from(vec![b'a'; 512 << 10])).await;
            at(5_000).await;
            // The question has arrived by now.
            sleep(shared.shape.delay(REPLICA, READER) + Duration::from_millis(20)).await;
            client.write("solo", &key, Bytes::from_static(b"two")).await;
        },
        |shared, node, book| async move {
            let client = Client { node: &node, book: &book };
            at(1_000).await;
            client.prime("solo", &client.key(&shared.shape, "solo", "prime")).await;
            at(5_000).await;
            let key = client.key(&shared.shape, "solo", "large");
            let large = client.read("solo", &key).await;
            book.expect(
                value_of(large.as_ref()).is_some_and(|value| value.len() == 512 << 10),
                "the answer was on its way before the write",
            );
            for _ in 0..20 {
                sleep(Duration::from_millis(200)).await;
                let _ = client.read("solo", &key).await;
            }
        },
    )
}

/// The reader is cut off from the replica, which goes on writing.
fn cut_off(mutation: Option<Mutation>) -> Vec<String> {
    play(
        3,
        mutation,
        |shared, node, book| async move {
            let client = Client { node: &node, book: &book };
            for (ns, stem) in [("solo", "kept"), ("strict", "fresh")] {
                client.write(ns, &client.key(&shared.shape, ns, stem), Bytes::from_static(b"one")).await;
            }
            at(6_000).await;
            for (ns, stem) in [("solo", "kept"), ("strict", "fresh")] {
                client.write(ns, &client.key(&shared.shape, ns, stem), Bytes::from_static(b"two")).await;
            }
        },
        |shared, node, book| async move {
            let client = Client { node: &node, book: &book };
            let (kept, fresh) = (client.key(&shared.shape, "solo", "kept"), client.key(&shared.shape, "strict", "fresh"));
            at(1_000).await;
            client.prime("solo", &kept).await;
            client.prime("strict", &fresh).await;
            at(5_000).await;
            cut(&shared, true);
            at(6_500).await;
            let early = client.read("strict", &fresh).await;
            book.expect(early.is_ok(), "a copy that is young enough is served on");
            at(12_000).await;
            let served = client.read("solo", &kept).await;
            let age_ms = served.as_ref().ok().and_then(|served| served.receipt.age_ms);
            book.expect(age_ms.is_some_and(|age| (7_000..9_000).contains(&age)), &format!("the age grows: {age_ms:?}"));
            book.expect(value_of(served.as_ref()).as_deref() == Some(b"one"), "what is cut off serves its copy");
            let refused = client.read("strict", &fresh).await;
            book.expect(matches!(refused, Err(Refusal::TooStale { .. })), &format!("too old for its namespace: {refused:?}"));
            cut(&shared, false);
            at(25_000).await;
            for (ns, key) in [("solo", &kept), ("strict", &fresh)] {
                client.prime(ns, key).await;
                let healed = client.read(ns, key).await;
                book.expect(value_of(healed.as_ref()).as_deref() == Some(b"two"), "after the healing the copy is new");
            }
        },
    )
}

fn cut(shared: &Shared, is_cut: bool) {
    for other in 0..shared.shape.nodes.len() {
        lock(&shared.net).cut(other, READER, is_cut);
        lock(&shared.net).cut(READER, other, is_cut);
    }
}

const NONE: &[String] = &[];

#[test]
fn e10_a_copy_goes_a_one_way_delay_after_a_write_elsewhere_and_at_once_after_an_own_one() {
    assert_eq!(alone(|| invalidations(None)), NONE);
}

#[test]
fn e10_an_answer_that_an_invalidation_overtook_is_not_kept_and_keeping_it_is_caught() {
    assert_eq!(alone(|| overtaken(None)), NONE);
    let caught = alone(|| overtaken(Some(Mutation::KeepOvertakenCopy)));
    assert!(caught.iter().any(|wrong| wrong.contains("said to be")), "{caught:?}");
}

#[test]
fn e10_a_region_that_is_cut_off_serves_copies_with_a_growing_age_and_stops_where_the_namespace_says_so() {
    assert_eq!(alone(|| cut_off(None)), NONE);
    let caught = alone(|| cut_off(Some(Mutation::TrustBrokenStream)));
    assert!(caught.iter().any(|wrong| wrong.contains("said to be")), "{caught:?}");
}
