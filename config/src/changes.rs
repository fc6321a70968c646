//! What applying a cluster file would change.

use std::fmt;

use isochrone_ident::Namespace;

use crate::cluster::{ClusterSpec, Mode, NamespaceSpec};

/// One difference between the cluster file in force and a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A namespace is new.
    NamespaceAdded(NamespaceSpec),
    /// A namespace is no longer declared: its keys stay on disk and cannot be reached.
    NamespaceRemoved(Namespace),
    /// A setting of a namespace differs.
    NamespaceChanged {
        /// Which namespace.
        name: Namespace,
        /// Which of its settings.
        field: &'static str,
        /// The old value.
        from: String,
        /// The new value.
        to: String,
    },
    /// Refused: the mode of a namespace that exists is fixed for ever, because its keys live by the promise.
    ModeRefused {
        /// Which namespace.
        name: Namespace,
        /// The mode that it has.
        from: Mode,
        /// The mode that was asked for.
        to: Mode,
    },
    /// The placement ranks another number of replicas, so data moves.
    WidthChanged {
        /// The old number.
        from: u8,
        /// The new number.
        to: u8,
    },
    /// A token is new; its name.
    TokenAdded(String),
    /// A token is gone; its name.
    TokenRemoved(String),
    /// A token of the same name has another hash or other rights; its name.
    TokenChanged(String),
}

impl Change {
    /// Whether this keeps the whole file from being applied.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::ModeRefused { .. })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamespaceAdded(spec) => {
                write!(
                    f,
                    "+ namespace {} (mode {}, kind {}, replicas {})",
                    spec.name,
                    spec.mode.as_str(),
                    spec.keeping.as_str(),
                    spec.replicas
                )
            }
            Self::NamespaceRemoved(name) => write!(f, "- namespace {name} (its keys stay on disk, out of reach)"),
            Self::NamespaceChanged { name, field, from, to } => write!(f, "~ namespace {name}: {field} {from} -> {to}"),
            Self::ModeRefused { name, from, to } => write!(
                f,
                "! namespace {name}: mode {} -> {} is refused; make a new namespace and copy the keys",
                from.as_str(),
                to.as_str()
            ),
            Self::WidthChanged { from, to } => write!(f, "~ replicas placed for each slot {from} -> {to} (data moves)"),
            Self::TokenAdded(name) => write!(f, "+ token {name}"),
            Self::TokenRemoved(name) => write!(f, "- token {name}"),
            Self::TokenChanged(name) => write!(f, "~ token {name}"),
        }
    }
}

/// Every difference, namespaces first, by name. Nothing differs: empty. A [`Change::is_refused`] among them forbids applying `new`.
#[must_use]
pub fn diff(old: &ClusterSpec, new: &ClusterSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    for namespace in new.namespaces() {
        match old.namespace(&namespace.name) {
            None => changes.push(Change::NamespaceAdded(namespace.clone())),
            Some(before) => namespace_changes(&mut changes, before, namespace),
        }
    }
    let gone = old.namespaces().filter(|namespace| new.namespace(&namespace.name).is_none());
    changes.extend(gone.map(|namespace| Change::NamespaceRemoved(namespace.name.clone())));
    let (from, to) = (old.replica_width(), new.replica_width());
    if from != to {
        changes.push(Change::WidthChanged { from, to });
    }
    token_changes(&mut changes, old, new);
    changes
}

fn namespace_changes(changes: &mut Vec<Change>, old: &NamespaceSpec, new: &NamespaceSpec) {
    if old.mode != new.mode {
        changes.push(Change::ModeRefused { name: new.name.clone(), from: old.mode, to: new.mode });
    }
    for ((field, from), (_, to)) in fields(old).into_iter().zip(fields(new)) {
        if from != to {
            changes.push(Change::NamespaceChanged { name: new.name.clone(), field, from, to });
        }
    }
}

/// The settings of a namespace that may change, as texts.
fn fields(spec: &NamespaceSpec) -> [(&'static str, String); 7] {
    let or_unset = |value: Option<String>| value.unwrap_or_else(|| "unset".to_owned());
    [
        ("kind", spec.keeping.as_str().to_owned()),
        ("replicas", spec.replicas.to_string()),
        ("ttl_default", or_unset(spec.ttl_default.map(|ttl| ttl.to_string()))),
        ("ttl_max", or_unset(spec.ttl_max.map(|ttl| ttl.to_string()))),
        ("value_bytes", or_unset(spec.value_bytes.map(|bytes| bytes.to_string()))),
        ("max_staleness", or_unset(spec.max_staleness.map(|max| max.to_string()))),
        ("set_members", or_unset(spec.set_members.map(|max| max.to_string()))),
    ]
}

fn token_changes(changes: &mut Vec<Change>, old: &ClusterSpec, new: &ClusterSpec) {
    for token in &new.tokens {
        match old.tokens.iter().find(|before| before.name == token.name) {
            None => changes.push(Change::TokenAdded(token.name.clone())),
            Some(before) if before != token => changes.push(Change::TokenChanged(token.name.clone())),
            Some(_) => {}
        }
    }
    let gone = old.tokens.iter().filter(|before| !new.tokens.iter().any(|token| token.name == before.name));
    changes.extend(gone.map(|token| Change::TokenRemoved(token.name.clone())));
}
