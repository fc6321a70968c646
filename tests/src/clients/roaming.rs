//! Clients that go from daemon to daemon. Half of them carry their newest session token along (E9); all of them write keys of every type, repeat
//! counter adds elsewhere under one idempotency key (E1), and ask for a quorum now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use isochrone_ident::{Kind, Namespace};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::clients::calls::{Answer, Call, path, request};
use crate::clients::desks::{Visit, visit};
use crate::clients::{strong, typed_calls};
use crate::history::{Deed as ValueDeed, Fate, Name, Shown, WriteId, value_of};
use crate::model::maps::Change;
use crate::model::sessions::Session;
use crate::model::typed::{Deed, Place, View};
use crate::model::{ActId, Ending, Request, Step};
use crate::shared::{Shared, Stage, elapsed, lock};

/// Clients that roam.
pub const ROAMERS: u64 = 6;
/// Keys of each type and namespace that last, and that expire.
const KEYS: (u32, u32) = (5, 2);
/// The longest pause of a client.
const PAUSE_MS_MAX: u64 = 120;
/// The longest way to a daemon.
const TRAVEL_MS_MAX: u64 = 15;
/// Refusals in a row after which a client gives up its session.
const PATIENCE: u32 = 4;

/// The host of all clients that roam: it never breaks.
///
/// # Errors
/// Never: the harness ends hosts.
pub async fn live(shared: Arc<Shared>) -> turmoil::Result {
    let roamers = if shared.only_strong { 0 } else { ROAMERS };
    for number in 0..roamers {
        tokio::spawn(roam(Arc::clone(&shared), number));
    }
    strong::spawn_all(&shared);
    std::future::pending().await
}

async fn roam(shared: Arc<Shared>, number: u64) {
    let mut roamer = Roamer::new(shared, number);
    loop {
        tokio::time::sleep(Duration::from_millis(roamer.rng.random_range(1..=PAUSE_MS_MAX))).await;
        if matches!(roamer.shared.stage(), Stage::Work) {
            roamer.act().await;
        }
    }
}

struct Roamer {
    shared: Arc<Shared>,
    rng: StdRng,
    number: u64,
    /// Whether it carries its newest token.
    carries: bool,
    token: Option<String>,
    session: Session,
    /// Sessions so far, steps in this one, and refusals in a row.
    sessions: u64,
    steps: u64,
    refusals: u32,
    /// Lost disks that this session knows of.
    losses: u64,
    requests: u64,
    here: usize,
    /// The value's key that it asked for last.
    last: Option<Name>,
    /// The other key that it asked for last.
    last_place: Option<Place>,
}

/// How a request ended.
enum Ended {
    Refused,
    Unknown,
    Answered(Answer),
}

impl Roamer {
    fn new(shared: Arc<Shared>, number: u64) -> Self {
        let rng = StdRng::seed_from_u64(shared.seed ^ 0x70a3 ^ number << 32);
        Self {
            shared,
            rng,
            number,
            carries: number.is_multiple_of(2),
            token: None,
            session: Session::default(),
            sessions: 0,
            steps: 0,
            refusals: 0,
            losses: 0,
            requests: 0,
            here: 0,
            last: None,
            last_place: None,
        }
    }

    async fn act(&mut self) {
        self.forget_lost();
        if !self.carries || self.rng.random_ratio(1, 3) {
            self.here = self.rng.random_range(0..self.shared.shape.nodes.len());
        }
        match self.rng.random_range(0..100) {
            0..14 => self.put_value().await,
            14..26 => self.read_value().await,
            26..30 => self.list().await,
            30..50 => {
                let place = self.place();
                self.read(&place).await;
            }
            _ => self.write().await,
        }
    }

    /// After a lost disk a session may have seen what is nowhere any more: it begins anew.
    fn forget_lost(&mut self) {
        let losses = lock(&self.shared.history).losses;
        if losses != self.losses {
            self.losses = losses;
            self.begin_session();
        }
    }

    fn begin_session(&mut self) {
        self.token = None;
        self.session = Session::default();
        self.sessions += 1;
        self.steps = 0;
        self.refusals = 0;
    }

    fn namespace(&mut self) -> Namespace {
        let name = ["data", "data", "data", "pair", "cache"][self.rng.random_range(0..5)];
        Namespace::new(name).expect("a namespace's name")
    }

    /// Half of the time the place of last time, as for values.
    fn place(&mut self) -> Place {
        if let Some(last) = self.last_place.clone().filter(|_| self.rng.random()) {
            return last;
        }
        let kind = [Kind::Counter, Kind::Set, Kind::Map, Kind::Register][self.rng.random_range(0..4)];
        let key = match self.rng.random_range(0..8) {
            0 => format!("x{}", self.rng.random_range(0..KEYS.1)),
            // One of its own: all that happens to it, it knows.
            1 => format!("own{}", self.number),
            _ => format!("k{}", self.rng.random_range(0..KEYS.0)),
        };
        let place = Place { kind, name: (self.namespace(), key) };
        self.last_place = Some(place.clone());
        place
    }

    /// Notes the next request, and what goes into its head.
    fn begin(&mut self, quorum: bool) -> (Request, Vec<(&'static str, String)>) {
        let step = self.carries.then(|| Step { session: self.number * 1_000_000 + self.sessions, number: self.steps });
        self.steps += 1;
        let mut fields = Vec::new();
        if let Some(token) = self.token.clone().filter(|_| self.carries) {
            fields.push(("isochrone-session", token));
        }
        if quorum {
            fields.push(("isochrone-consistency", "quorum".to_owned()));
        }
        (Request { daemon: self.here, step, quorum, begun: elapsed() }, fields)
    }

    fn wants_quorum(&mut self) -> bool {
        self.rng.random_ratio(1, 6)
    }

    async fn ask(&mut self, request: Request, call: Call) -> Ended {
        let travel = Duration::from_millis(self.rng.random_range(1..=TRAVEL_MS_MAX));
        let answer = match visit(&self.shared, request.daemon, travel, call).await {
            Visit::Nobody => return Ended::Refused,
            Visit::Lost => return Ended::Unknown,
            Visit::Answered(answer) => answer,
        };
        self.shared.note(format_args!("roamer {} at {} {}", self.number, request.daemon, answer.status.as_u16()));
        lock(&self.shared.history).answers += 1;
        let good = answer.status.is_success() || answer.is_absence();
        if good && request.quorum && answer.text("isochrone-consistency") != Some("quorum") {
            let given = answer.text("isochrone-consistency").map(str::to_owned);
            self.violate(&format!("was asked for a quorum at daemon {} and gave {given:?}", request.daemon));
        }
        self.follow(&answer, good);
        if good { Ended::Answered(answer) } else { ended_badly(&answer) }
    }

    /// Takes over the newest token. Without one, or when its session is refused again and again, another session begins.
    fn follow(&mut self, answer: &Answer, good: bool) {
        if !self.carries {
            return;
        }
        self.refusals = if good { 0 } else { self.refusals + 1 };
        match answer.text("isochrone-session") {
            Some(token) => self.token = Some(token.to_owned()),
            None if good => self.begin_session(),
            None if self.refusals > PATIENCE => self.begin_session(),
            None => {}
        }
    }

    fn violate(&self, text: &str) {
        lock(&self.shared.history).violate(format!("roamer {} {text}", self.number));
    }

    /// Half of the time the key of last time: soon after a write elsewhere it shows whether the session is kept.
    fn value_name(&mut self) -> Name {
        if let Some(last) = self.last.clone().filter(|_| self.rng.random()) {
            return last;
        }
        let key = if self.rng.random_ratio(1, 3) { "r" } else { "k" };
        let name = (self.namespace(), format!("{key}{}", self.rng.random_range(0..12)));
        self.last = Some(name.clone());
        name
    }

    async fn put_value(&mut self) {
        let (name, quorum) = (self.value_name(), self.wants_quorum());
        let deletes = self.rng.random_ratio(1, 6);
        let (asked, fields) = self.begin(quorum);
        let (id, call) = self.begin_value(asked, &name, deletes, &fields);
        let before = self.sessions;
        let fate = match self.ask(asked, call).await {
            Ended::Refused => Fate::Refused,
            Ended::Unknown => Fate::Unknown,
            Ended::Answered(answer) => answer.fate(),
        };
        self.shared.note(format_args!("write {} {} {fate:?}", asked.daemon, id.0));
        let mut history = lock(&self.shared.history);
        history.end(id, fate);
        if fate == Fate::Done && before == self.sessions {
            self.session.deleted(&name);
        }
        let Fate::Acknowledged(version) = fate else { return };
        if quorum {
            history.acknowledge_quorum(&name, version);
        }
        if self.carries
            && before == self.sessions
            && let Err(text) = self.session.wrote(&name, version)
        {
            history.violate(format!("session of roamer {} {text}: what was acknowledged later should be later", self.number));
        }
    }

    fn begin_value(&self, asked: Request, name: &Name, deletes: bool, fields: &[(&str, String)]) -> (WriteId, Call) {
        let mut history = lock(&self.shared.history);
        if deletes {
            let id = history.begin(asked.daemon, name, ValueDeed::Delete);
            return (id, request(Method::DELETE, &path(name), fields, Bytes::new()));
        }
        let value = value_of(history.next_id(), 24);
        let id = history.begin(asked.daemon, name, ValueDeed::Put { value: value.clone(), expires: false });
        (id, request(Method::PUT, &path(name), fields, value))
    }

    async fn read_value(&mut self) {
        let (name, quorum) = (self.value_name(), self.wants_quorum());
        let (asked, fields) = self.begin(quorum);
        let durable = crate::cluster::is_durable(&name.0);
        let floor = {
            let history = lock(&self.shared.history);
            let by_quorum = history.quorum_floor(&name).filter(|_| quorum);
            history.floor(asked.daemon, &name).max(by_quorum).max(self.session.floor(&name)).filter(|_| durable)
        };
        let before = (self.sessions, self.losses);
        let Ended::Answered(answer) = self.ask(asked, request(Method::GET, &path(&name), &fields, Bytes::new())).await else { return };
        let mut history = lock(&self.shared.history);
        let shown = answer.version().filter(|_| answer.status.is_success()).map(|version| Shown { version, value: Some(answer.body) });
        let floor = floor.filter(|_| history.losses == before.1);
        history.read(asked.daemon, &name, floor, shown.as_ref());
        if let Some(shown) = shown.filter(|_| self.carries && before.0 == self.sessions && durable)
            && let Err(text) = self.session.read(&name, shown.version)
        {
            history.violate(format!("session of roamer {} {text}: it had been acknowledged or read", self.number));
        }
    }

    async fn list(&mut self) {
        let mut place = self.place();
        place.name.1.clear();
        let (asked, fields) = self.begin(false);
        let uri = typed_calls::path(&place);
        let call = request(Method::GET, uri.trim_end_matches('/'), &fields, Bytes::new());
        let Ended::Answered(answer) = self.ask(asked, call).await else { return };
        let lines = answer.lines();
        let keys: Vec<&str> = lines.iter().filter_map(|line| line["key"].as_str()).collect();
        if answer.status.is_success() && (keys.len() != lines.len() || !keys.is_sorted()) {
            self.violate(&format!("was shown the listing {keys:?} by daemon {}", asked.daemon));
        }
    }

    /// Reads a key; returns a register's context with the acts whose values it stands for.
    async fn read(&mut self, place: &Place) -> Option<(String, BTreeSet<ActId>)> {
        let quorum = self.wants_quorum();
        let (asked, fields) = self.begin(quorum);
        let id = lock(&self.shared.typed).begin_read(asked);
        let Ended::Answered(answer) = self.ask(asked, typed_calls::read(place, &fields)).await else { return None };
        let shown = if answer.status.is_success() { Some(self.view(place, &answer)?) } else { None };
        let checked = lock(&self.shared.typed).read(id, elapsed(), place, shown.as_ref().map(|(view, _)| view));
        self.hold(asked, place, checked);
        match shown {
            Some((View::Register(values), Some(context))) => Some((context, values)),
            _ => None,
        }
    }

    fn view(&self, place: &Place, answer: &Answer) -> Option<(View, Option<String>)> {
        let view = typed_calls::view_of(place.kind, &answer.body);
        if view.is_none() {
            self.violate(&format!("was shown {} of {place:?}, which nobody can have written", String::from_utf8_lossy(&answer.body)));
        }
        view
    }

    fn hold(&self, asked: Request, place: &Place, checked: Result<(), Vec<String>>) {
        let Err(why) = checked else { return };
        let (ns, key) = &place.name;
        self.violate(&format!("was shown the {} {ns}/{key} by daemon {}: {}", place.kind, asked.daemon, why.join("\n        ")));
    }

    async fn write(&mut self) {
        let place = self.place();
        let seen = match place.kind {
            Kind::Register if self.rng.random_ratio(9, 10) => self.read(&place).await,
            _ => None,
        };
        let quorum = self.wants_quorum();
        let (mut asked, mut fields) = self.begin(quorum);
        let ttl_ms = place.expires().then(|| self.rng.random_range(1_000..4_000));
        let deed = self.deed(&place, seen.as_ref().map(|(_, values)| values));
        let repeats = if place.kind == Kind::Counter { self.rng.random_range(0..3) } else { 0 };
        if repeats > 0 {
            self.requests += 1;
            fields.push(("idempotency-key", format!("roamer-{}-{}", self.number, self.requests)));
        }
        let id = lock(&self.shared.typed).begin(asked, &place, deed.clone());
        for left in (0..=repeats).rev() {
            let call = typed_calls::write(&place, id, &deed, seen.as_ref().map(|(context, _)| context.as_str()), ttl_ms, &fields);
            self.write_once(asked, &place, id, call).await;
            if left > 0 {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..600))).await;
                self.here = self.rng.random_range(0..self.shared.shape.nodes.len());
                let key = fields.pop();
                (asked, fields) = self.begin(quorum);
                fields.extend(key);
                lock(&self.shared.typed).again(id, asked);
            }
        }
    }

    async fn write_once(&mut self, asked: Request, place: &Place, id: ActId, call: Call) {
        let ended = self.ask(asked, call).await;
        let (ending, shown) = match &ended {
            Ended::Refused => (Ending::Refused, None),
            Ended::Unknown => (Ending::Unknown, None),
            Ended::Answered(answer) => match typed_calls::ending_of(answer.status.as_u16()) {
                Ending::Acknowledged => (Ending::Acknowledged, self.view(place, answer)),
                ending => (ending, None),
            },
        };
        self.shared.note(format_args!("act {} {} {ending:?}", asked.daemon, id.0));
        let mut typed = lock(&self.shared.typed);
        typed.end(id, ending, elapsed());
        let checked = shown.map_or(Ok(()), |(view, _)| typed.check_answer(id, place, &view));
        drop(typed);
        self.hold(asked, place, checked);
    }

    fn deed(&mut self, place: &Place, seen: Option<&BTreeSet<ActId>>) -> Deed {
        match place.kind {
            Kind::Set => self.update(),
            Kind::Map => Deed::Change(self.changes()),
            Kind::Register => Deed::Put { replaces: seen.cloned().unwrap_or_default() },
            _ => Deed::Add([-7, -1, 1, 2, 5, 100][self.rng.random_range(0..6)]),
        }
    }

    /// One to three members, each added or removed. Some are its own.
    fn update(&mut self) -> Deed {
        let (mut add, mut remove) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..self.rng.random_range(1..=3) {
            let member = if self.rng.random_ratio(1, 2) {
                format!("own{}-{}", self.number, self.rng.random_range(0..2))
            } else {
                format!("m{}", self.rng.random_range(0..5))
            };
            if self.rng.random_ratio(3, 5) {
                add.insert(member)
            } else {
                remove.insert(member)
            };
        }
        remove.retain(|member| !add.contains(member));
        Deed::Update { add: add.into_iter().collect(), remove: remove.into_iter().collect() }
    }

    /// One or two fields: values are f, counters c.
    fn changes(&mut self) -> Vec<(String, Change)> {
        let mut names = vec!["f0".to_owned(), "f1".to_owned(), "c0".to_owned(), "c1".to_owned()];
        names.extend([format!("f-own{}", self.number), format!("c-own{}", self.number)]);
        let count = self.rng.random_range(1..=2);
        let chosen: Vec<String> = names.choose_multiple(&mut self.rng, count).cloned().collect();
        chosen.into_iter().map(|name| (name.clone(), self.change(&name))).collect()
    }

    fn change(&mut self, name: &str) -> Change {
        match self.rng.random_range(0..10) {
            0..3 => Change::Remove,
            _ if name.starts_with('c') => Change::Add(self.rng.random_range(1..20)),
            _ => Change::Set,
        }
    }
}

/// What a refusal says of what was asked.
fn ended_badly(answer: &Answer) -> Ended {
    match typed_calls::ending_of(answer.status.as_u16()) {
        Ending::Refused => Ended::Refused,
        _ => Ended::Unknown,
    }
}
