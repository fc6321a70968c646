//! A multi-value register: values that no write has replaced yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use crdts::VClock;
use isochrone_ident::Version;
use serde::{Deserialize, Serialize};

use super::change::Actor;

/// One value of a register, made unique by the version of its write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Sibling {
    pub(crate) version: Version,
    pub(crate) content_type: Option<Arc<str>>,
    pub(crate) value: Bytes,
}

/// What a reader of a register has seen: the dots of each life of the key. Opaque to clients, who hand it back with the write that replaces what they
/// read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegisterContext(pub(crate) BTreeMap<Version, VClock<Actor>>);

/// A value of a register as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterValue {
    /// The write that it came with.
    pub version: Version,
    /// The `Content-Type` given at the write.
    pub content_type: Option<Arc<str>>,
    /// The body as it was sent.
    pub value: Bytes,
}

impl From<&Sibling> for RegisterValue {
    fn from(sibling: &Sibling) -> Self {
        Self { version: sibling.version, content_type: sibling.content_type.clone(), value: sibling.value.clone() }
    }
}
