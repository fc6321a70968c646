//! A whole cluster of councils in one thread and virtual time, over a wire in memory with delays, cuts and crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use isochrone_council::{Command, Council, CouncilOptions, Member, Observations, Role, SlotClass, Wire, WireError};
use isochrone_ident::{ClusterName, Incarnation, NodeId, Region, StoreId};
use isochrone_placement::{Capacity, RoundTrips};
use redb::backends::InMemoryBackend;
use tokio::time::{Instant, sleep, timeout};

/// Long enough for anything that should happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A disk in memory that outlives the database on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<InMemoryBackend>);

impl redb::StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.0.write(offset, data)
    }
}

impl Disk {
    pub(crate) fn open(&self) -> redb::Database {
        redb::Database::builder().create_with_backend(self.clone()).unwrap()
    }
}

#[derive(Default)]
struct Links {
    running: BTreeMap<NodeId, Council>,
    regions: BTreeMap<NodeId, Region>,
    /// The first messages of all, by their sender.
    recorded: Vec<(NodeId, Vec<u8>)>,
    /// Messages in this direction vanish.
    cut: BTreeSet<(NodeId, NodeId)>,
}

/// One-way delays are half of the round trips of the matrix.
fn one_way(a: &Region, b: &Region) -> Duration {
    let millis = match [a.as_str(), b.as_str()] {
        [a, b] if a == b => 1,
        ["us", "eu"] | ["eu", "us"] => 37,
        ["us", "ap"] | ["ap", "us"] => 82,
        ["eu", "ap"] | ["ap", "eu"] => 116,
        _ => 60,
    };
    Duration::from_millis(millis)
}

#[derive(Clone, Default)]
pub(crate) struct Net(Arc<Mutex<Links>>);

impl Net {
    fn delay(&self, from: NodeId, to: NodeId) -> Duration {
        let links = self.0.lock().unwrap();
        one_way(&links.regions[&from], &links.regions[&to])
    }

    fn record(&self, from: NodeId, body: &Bytes) {
        let recorded = &mut self.0.lock().unwrap().recorded;
        if recorded.len() < 1_000 {
            recorded.push((from, body.to_vec()));
        }
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.0.lock().unwrap().cut.contains(&(from, to))
    }

    fn running(&self, node: NodeId) -> Option<Council> {
        self.0.lock().unwrap().running.get(&node).cloned()
    }

    pub(crate) async fn call(self, from: NodeId, to: NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, WireError> {
        self.record(from, &body);
        let lost = || WireError::Unknown("lost".into());
        let carried = async {
            sleep(self.delay(from, to)).await;
            if self.is_cut(from, to) {
                std::future::pending::<()>().await;
            }
            let Some(council) = self.running(to) else { return Err(WireError::Unsent("nobody there".into())) };
            let answer = council.handle(from, body).await.map_err(WireError::Refused);
            drop(council);
            sleep(self.delay(to, from)).await;
            if self.is_cut(to, from) {
                std::future::pending::<()>().await;
            }
            answer
        };
        timeout(deadline, carried).await.unwrap_or_else(|_| Err(lost()))
    }
}

struct NodeWire {
    net: Net,
    me: NodeId,
}

impl Wire for NodeWire {
    fn call(&self, to: NodeId, body: Bytes, deadline: Duration) -> BoxFuture<'static, Result<Bytes, WireError>> {
        Box::pin(self.net.clone().call(self.me, to, body, deadline))
    }
}

/// Sees the delays of the wire, and who runs.
struct Sight {
    net: Net,
}

impl Observations for Sight {
    fn round_trips(&self) -> RoundTrips {
        let links = self.net.0.lock().unwrap();
        let mut seen = RoundTrips::default();
        for a in links.regions.values() {
            for b in links.regions.values() {
                seen.insert(a, b, one_way(a, b).as_micros() as u32 * 2);
            }
        }
        seen
    }
    fn traffic(&self) -> BTreeMap<Region, u64> {
        BTreeMap::new()
    }
    fn alive(&self, node: NodeId) -> bool {
        self.net.0.lock().unwrap().running.contains_key(&node)
    }
}

pub(crate) fn member(node: u128, region: &str) -> Member {
    Member {
        node: NodeId(node),
        store: StoreId(node + 1000),
        region: Region::new(region).unwrap(),
        zone: None,
        address: format!("node-{node}:7946"),
        capacity: Capacity::ONE,
        incarnation: Incarnation(1),
    }
}

pub(crate) struct Cluster {
    pub(crate) net: Net,
    seed: u64,
    tune: fn(&mut CouncilOptions),
    members: BTreeMap<NodeId, Member>,
    disks: BTreeMap<NodeId, Disk>,
}

impl Cluster {
    pub(crate) fn new(seed: u64) -> Self {
        Self::tuned(seed, |_| {})
    }

    pub(crate) fn tuned(seed: u64, tune: fn(&mut CouncilOptions)) -> Self {
        Self { net: Net::default(), seed, tune, members: BTreeMap::new(), disks: BTreeMap::new() }
    }

    /// A founded cluster of nodes 1, 2, ... in these regions, with all voters in place.
    pub(crate) async fn of(seed: u64, regions: &[&str]) -> Self {
        Self::tuned_of(seed, regions, |_| {}).await
    }

    pub(crate) async fn tuned_of(seed: u64, regions: &[&str], tune: fn(&mut CouncilOptions)) -> Self {
        let mut cluster = Self::tuned(seed, tune);
        cluster.start(member(1, regions[0])).await.bootstrap("file".into(), 3).await.unwrap();
        for (n, region) in (2..).zip(&regions[1..]) {
            cluster.start(member(n, region)).await;
            cluster.join(n, 1).await;
        }
        let voters = if regions.len().is_multiple_of(2) { regions.len() - 1 } else { regions.len() };
        for n in 1..=regions.len() as u128 {
            cluster.until(n, |c| c.state().voters.len() == voters && c.state().members.len() == regions.len()).await;
        }
        cluster
    }

    pub(crate) async fn start(&mut self, member: Member) -> Council {
        let node = member.node;
        self.net.0.lock().unwrap().regions.insert(node, member.region.clone());
        let mut options = CouncilOptions::new(member.clone(), ClusterName::new("test").unwrap(), self.seed ^ (node.0 as u64) << 32);
        options.observations = Arc::new(Sight { net: self.net.clone() });
        (self.tune)(&mut options);
        let disk = self.disks.entry(node).or_default().open();
        let wire = Arc::new(NodeWire { net: self.net.clone(), me: node });
        let council = Council::start(options, disk, wire).await.unwrap();
        self.members.insert(node, member);
        self.net.0.lock().unwrap().running.insert(node, council.clone());
        council
    }

    /// Tries to start a stopped node as one of another cluster.
    pub(crate) async fn start_as(&self, member: Member, cluster: &str) -> Result<Council, isochrone_council::StartError> {
        let wire = Arc::new(NodeWire { net: self.net.clone(), me: member.node });
        let disk = self.disks[&member.node].open();
        Council::start(CouncilOptions::new(member, ClusterName::new(cluster).unwrap(), 1), disk, wire).await
    }

    pub(crate) fn node(&self, n: u128) -> Council {
        self.net.running(NodeId(n)).expect("it runs")
    }

    pub(crate) async fn join_once(&self, n: u128, seed: u128) -> Result<(), isochrone_council::JoinError> {
        let net = self.net.clone();
        let call = move |body, deadline| -> BoxFuture<'static, _> { Box::pin(net.call(NodeId(n), NodeId(seed), body, deadline)) };
        self.node(n).join_via(call, Duration::from_secs(2)).await.map(drop)
    }

    pub(crate) async fn join(&self, n: u128, seed: u128) {
        self.join_once(n, seed).await.unwrap();
    }

    pub(crate) async fn state_asked_by(&self, n: u128, of: u128) -> Result<isochrone_council::ClusterState, WireError> {
        let net = self.net.clone();
        let call = move |body, deadline| -> BoxFuture<'static, _> { Box::pin(net.call(NodeId(n), NodeId(of), body, deadline)) };
        self.node(n).state_via(call, PATIENCE).await
    }

    /// Ends a node; its disk stays.
    pub(crate) async fn stop(&self, n: u128) {
        let council = self.net.0.lock().unwrap().running.remove(&NodeId(n)).expect("it runs");
        council.shutdown().await;
        drop(council);
        sleep(Duration::from_millis(600)).await; // calls in flight let go of it
    }

    /// Starts a node that was stopped, in its next incarnation.
    pub(crate) async fn restart(&mut self, n: u128) -> Council {
        let mut member = self.members[&NodeId(n)].clone();
        member.incarnation.0 += 1;
        self.start(member).await
    }

    pub(crate) fn disk(&self, n: u128) -> &Disk {
        &self.disks[&NodeId(n)]
    }

    pub(crate) fn forget_disk(&mut self, n: u128) {
        self.disks.remove(&NodeId(n));
    }

    pub(crate) fn cut(&self, a: u128, b: u128) {
        self.net.0.lock().unwrap().cut.insert((NodeId(a), NodeId(b)));
    }

    pub(crate) fn recorded(&self) -> Vec<(NodeId, Vec<u8>)> {
        self.net.0.lock().unwrap().recorded.clone()
    }

    /// Cuts these nodes off from all others, both ways.
    pub(crate) fn isolate(&self, nodes: &[u128]) {
        let others: Vec<u128> = self.members.keys().map(|n| n.0).filter(|n| !nodes.contains(n)).collect();
        for &a in nodes {
            for &b in &others {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    pub(crate) fn heal(&self) {
        self.net.0.lock().unwrap().cut.clear();
    }

    pub(crate) async fn until(&self, n: u128, holds: impl Fn(&Council) -> bool) {
        let council = self.node(n);
        let begun = Instant::now();
        while !holds(&council) {
            assert!(begun.elapsed() < PATIENCE, "node {n} did not get there: {:?} {:?}", council.status(), council.state().members.keys());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Who leads, as all running nodes but `except` agree.
    pub(crate) async fn leader_but(&self, except: &[u128]) -> u128 {
        let begun = Instant::now();
        loop {
            let running = self.net.0.lock().unwrap().running.clone();
            let seen: BTreeSet<_> =
                running.iter().filter(|(n, _)| !except.contains(&n.0)).map(|(_, council)| council.status().leader).collect();
            if let [Some(leader)] = seen.into_iter().collect::<Vec<_>>()[..]
                && !except.contains(&leader.0)
                && self.node(leader.0).status().role == Role::Leader
            {
                return leader.0;
            }
            assert!(begun.elapsed() < PATIENCE, "no leader");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn leader(&self) -> u128 {
        self.leader_but(&[]).await
    }

    /// What a mover of strong slots does where the council doesn't do it: completes their moves until there are none for a while.
    pub(crate) async fn settle_strong(&self, n: u128) {
        let council = self.node(n);
        let begun = Instant::now();
        let mut still = Instant::now();
        while still.elapsed() < Duration::from_secs(2) {
            let state = council.state();
            for class in [SlotClass::Strong, SlotClass::Eventual] {
                let from = state.class(class).epoch;
                let slots: Vec<_> = state.class(class).moving_slots().collect();
                if !slots.is_empty() {
                    still = Instant::now();
                    council.propose(Command::Moved { class, from, slots }, PATIENCE).await.unwrap();
                }
            }
            assert!(begun.elapsed() < 2 * PATIENCE, "strong slots do not settle");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the movers of the daemons do: completes all moves of the eventual class.
    pub(crate) async fn settle(&self, n: u128) {
        let council = self.node(n);
        let begun = Instant::now();
        loop {
            let state = council.state();
            let class = &state.placement.eventual;
            let slots: Vec<_> = class.moving_slots().collect();
            let all: BTreeSet<_> = state.placement.eventual.current().members().iter().copied().collect();
            if slots.is_empty() && all.into_iter().eq(state.members.keys().copied()) && !state.placement.strong.is_moving() {
                return;
            }
            if !slots.is_empty() {
                council.propose(Command::Moved { class: SlotClass::Eventual, from: class.epoch, slots }, PATIENCE).await.unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "the placement does not settle");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) fn file(text: &str, expected_revision: Option<u64>) -> Command {
    Command::ApplyFile { text: text.into(), expected_revision, width: 3 }
}
