//! Loading the node file, its environment and its flags into one set of settings.

use std::path::Path;

use crate::layers::{Merged, merge, read_env, read_flags};
use crate::node_keys::NODE;
use crate::problem::{Origin, Problem, Problems};
use crate::rules::RULES;
use crate::schema::Reload;
use crate::settings::NodeSettings;
use crate::show::Effective;
use crate::strict::{Reading, SecretFiles, Values, read_file, read_text};

/// Valid settings, and where each came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: NodeSettings,
    /// The winning value of every key, with its origin.
    pub provenance: Provenance,
}

/// The winning value of every key that has one, with its origin.
#[derive(Debug, Clone)]
pub struct Provenance(pub(crate) Values);

impl Provenance {
    /// Where the value of that key came from; [`Origin::Default`] also for a key that is unset.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.0.get(key).map_or(Origin::Default, |placed| placed.origin.clone())
    }

    /// The value of that key as TOML writes it, secrets hidden; `None` when it is unset.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<String> {
        self.0.get(key).map(|placed| placed.value.to_string())
    }
}

impl NodeSettings {
    /// Loads the settings: defaults, then `file`, then the variables of `env` that begin with `ISOCHRONE__`, then `flags` as (dotted key,
    /// text) pairs, of which the last of a key wins. Secrets named by a `_file` key are read here, and so is `file`; nothing else is touched.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong, in all layers, each with its place.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>, flags: &[(String, String)]) -> Result<Loaded, Problems> {
        match file.map(|path| (path, read_text(path))) {
            None => load_layers(None, env, flags),
            Some((path, Ok(text))) => load_layers(Some((path, &text)), env, flags),
            Some((_, Err(problem))) => Err(Problems::one(problem)),
        }
    }

    /// As [`NodeSettings::load`], with the file's text given; `path` names it in errors, and relative paths in it count from its directory.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong, in all layers, each with its place.
    pub fn parse(
        text: &str,
        path: &Path,
        env: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Loaded, Problems> {
        load_layers(Some((path, text)), env, flags)
    }
}

fn load_layers(
    file: Option<(&Path, &str)>,
    env: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Loaded, Problems> {
    let mut readings: Vec<Reading> = Vec::new();
    readings.extend(file.map(|(path, text)| read_file(&NODE, text, path, SecretFiles::Follow)));
    readings.extend(read_env(&NODE, env));
    readings.extend(read_flags(&NODE, flags));
    let mut merged = merge(&NODE, readings);
    merged.complete(&NODE, file.map(|(path, _)| path));
    let settings = merged.fill::<NodeSettings>();
    settings.iter().for_each(|settings| check_rules(&mut merged, settings));
    Problems::none_of(merged.problems)?;
    let settings = settings.ok_or_else(|| Problems::one(unfilled()))?;
    Ok(Loaded { settings, provenance: Provenance(merged.values) })
}

/// [`Merged::fill`] says why it made nothing, so this is never the only problem.
pub(crate) fn unfilled() -> Problem {
    Problem { origin: Origin::Default, key: String::new(), value: None, fault: crate::Fault::Rule("no settings could be made".to_owned()) }
}

fn check_rules(merged: &mut Merged, settings: &NodeSettings) {
    for rule in RULES {
        if let Some(what) = (rule.broken)(settings) {
            merged.break_rule(rule.keys, what);
        }
    }
}

impl Loaded {
    /// Every key with its effective value and its origin.
    #[must_use]
    pub fn effective(&self) -> Effective {
        Effective::of(&NODE, &self.provenance.0)
    }
}

/// One key whose value differs between two sets of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The dotted key.
    pub key: &'static str,
    /// The old value as TOML writes it, secrets hidden; `None` when it was unset.
    pub from: Option<String>,
    /// The new value, likewise. A change of secrets alone shows the same text twice.
    pub to: Option<String>,
}

/// What a reload changes at once, and what waits for the next start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadDiff {
    /// Keys that take effect now.
    pub live: Vec<KeyChange>,
    /// Keys that need a restart, and keep their old value until then.
    pub restart: Vec<KeyChange>,
}

/// Compares what runs with what was loaded anew, in the order of the table. A file whose path stays the same and whose content changed
/// is no change of a key: certificates are watched by whoever uses them (rule M4).
#[must_use]
pub fn reload_diff(old: &Loaded, new: &Loaded) -> ReloadDiff {
    let mut diff = ReloadDiff::default();
    for key in NODE.keys() {
        let value = |loaded: &Loaded| loaded.provenance.0.get(key.path).map(|placed| placed.value.clone());
        if value(old) == value(new) {
            continue;
        }
        let change = KeyChange { key: key.path, from: old.provenance.value(key.path), to: new.provenance.value(key.path) };
        match key.reload {
            Reload::Live => diff.live.push(change),
            Reload::Restart => diff.restart.push(change),
        }
    }
    diff
}
