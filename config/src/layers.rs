//! Layers: defaults, then the file, then the environment, then flags. Each layer is read strictly by itself; the `config` crate
//! lays them over each other and fills the typed settings, and has nothing left to coerce.

use std::path::Path;

use config::{Config, ConfigError, Environment, Map, Source};
use serde::de::DeserializeOwned;

use crate::problem::{Fault, Origin, Problem};
use crate::schema::{KeySpec, Schema, env_name};
use crate::strict::{Placed, Reading, Values, defaults, read_override};
use crate::value::{Value, from_text};

/// What every settings variable begins with.
const ENV_PREFIX: &str = "ISOCHRONE__";

/// One layer's values, as a source for the `config` crate.
#[derive(Debug, Clone)]
struct Layer(Values);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, config::Value>, ConfigError> {
        Ok(self.0.iter().map(|(path, placed)| ((*path).to_owned(), placed.value.to_config())).collect())
    }
}

/// Reads the settings among the environment's variables; the others are not looked at.
pub(crate) fn read_env(schema: &Schema, env: impl Iterator<Item = (String, String)>) -> Vec<Reading> {
    let ours = env.filter(|(name, _)| name.get(..ENV_PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(ENV_PREFIX)));
    let exact = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let (spelled, misspelled): (Vec<_>, Vec<_>) = ours.partition(|(name, _)| exact(name));
    let mut readings: Vec<Reading> = misspelled.into_iter().map(|(name, _)| misspelled_variable(schema, &name)).collect();
    // Values stay texts (`try_parsing(false)`): the key's kind says how each is read.
    let source = Environment::with_prefix("ISOCHRONE").prefix_separator("__").separator("__").try_parsing(false);
    for (path, value) in source.source(Some(spelled.into_iter().collect())).collect().unwrap_or_default() {
        let text = value.into_string().unwrap_or_default();
        readings.push(read_override(schema, &path, &text, Origin::Env(env_name(&path))));
    }
    readings
}

/// The `config` crate would take any case, and so one of two variables without a word.
fn misspelled_variable(schema: &Schema, name: &str) -> Reading {
    let path = name[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
    let nearest = schema.nearest(&path).map(|path| env_name(&path));
    let problem = Problem { origin: Origin::Env(name.to_owned()), key: path, value: None, fault: Fault::Unknown { nearest } };
    Reading { problems: vec![problem], ..Reading::default() }
}

/// Reads flags, in order: the last of a key wins.
pub(crate) fn read_flags(schema: &Schema, flags: &[(String, String)]) -> Vec<Reading> {
    flags.iter().map(|(path, text)| read_override(schema, path, text, Origin::Flag(path.clone()))).collect()
}

/// The layers laid over each other.
pub(crate) struct Merged {
    /// The value that won, by key, with its origin.
    pub(crate) values: Values,
    pub(crate) problems: Vec<Problem>,
    layers: Vec<Values>,
    broken: bool,
}

/// Lays readings over the defaults, the later over the earlier.
pub(crate) fn merge(schema: &Schema, readings: Vec<Reading>) -> Merged {
    let mut merged = Merged { values: defaults(schema), problems: Vec::new(), layers: vec![defaults(schema)], broken: false };
    for reading in readings {
        merged.values.extend(reading.values.clone());
        merged.layers.push(reading.values);
        merged.problems.extend(reading.problems);
        merged.broken |= reading.broken;
    }
    merged
}

impl Merged {
    /// Whether something is wrong with that key or a part of it already.
    fn is_faulty(&self, path: &str) -> bool {
        let below = |key: &str| key.strip_prefix(path).is_some_and(|rest| matches!(rest.chars().next(), None | Some('[' | '.' | '_')));
        self.problems.iter().any(|problem| below(&problem.key))
    }

    /// Adds a problem at the place of the first of `keys`, unless one of them is faulty already.
    pub(crate) fn break_rule(&mut self, keys: &[&str], rule: String) {
        if self.broken || keys.iter().any(|key| self.is_faulty(key)) {
            return;
        }
        let Some(&key) = keys.first() else { return };
        let placed = self.values.get(key);
        let origin = placed.map_or(Origin::Default, |p| p.origin.clone());
        let value = placed.map(|p| &p.value).filter(|value| !matches!(value, Value::Tables(_))).map(Value::to_string);
        self.problems.push(Problem { origin, key: key.to_owned(), value, fault: Fault::Rule(rule) });
    }

    /// Asks for keys that have to be given, and for those that others need. Examples stand in, so that the check can go on.
    pub(crate) fn complete(&mut self, schema: &Schema, file: Option<&Path>) {
        let given = self.values.clone();
        for key in schema.keys() {
            if key.required && !given.contains_key(key.path) {
                self.missing(key, file);
            }
            let lacking: Vec<&str> = key.needs.iter().copied().filter(|needed| !given.contains_key(needed)).collect();
            if given.contains_key(key.path) && !lacking.is_empty() {
                self.break_rule(&[&[key.path], key.needs].concat(), format!("needs {} as well", lacking.join(" and ")));
                lacking.iter().filter_map(|needed| schema.key(needed)).for_each(|needed| self.stand_in(needed));
            }
        }
    }

    fn missing(&mut self, key: &'static KeySpec, file: Option<&Path>) {
        if !self.broken && !self.is_faulty(key.path) {
            let origin = file.map_or(Origin::Default, |path| Origin::File { path: path.to_owned(), line: None });
            let fault = Fault::Missing { allowed: key.kind.allowed() };
            self.problems.push(Problem { origin, key: key.path.to_owned(), value: None, fault });
        }
        self.stand_in(key);
    }

    /// Lets the typed settings be filled although that key is wrong; the problems already found keep them from being used.
    fn stand_in(&mut self, key: &'static KeySpec) {
        let Some(value) = from_text(&key.kind, key.example, Path::new("")) else { return };
        let placed = Placed { value, origin: Origin::Default };
        self.layers.push(Values::from([(key.path, placed)]));
    }

    /// The typed settings.
    pub(crate) fn fill<T: DeserializeOwned>(&mut self) -> Option<T> {
        let layers = self.layers.iter().fold(Config::builder(), |builder, layer| builder.add_source(Layer(layer.clone())));
        match layers.build().and_then(Config::try_deserialize) {
            Ok(settings) => Some(settings),
            Err(error) => {
                let fault = Fault::Rule(format!("the settings do not fit together: {error}"));
                self.problems.push(Problem { origin: Origin::Default, key: String::new(), value: None, fault });
                None
            }
        }
    }
}
