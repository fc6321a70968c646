//! Property: no slip of one character in a known key goes unnoticed, in no layer.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use isochrone_config::{Fault, NODE, NodeSettings, Problem, Problems};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Slip {
    Insert(char),
    Delete,
    Replace(char),
    Swap,
}

fn slips() -> impl Strategy<Value = Slip> {
    let letter = prop::char::ranges(vec!['a'..='z', '0'..='9', '_'..='_'].into());
    prop_oneof![letter.clone().prop_map(Slip::Insert), Just(Slip::Delete), letter.prop_map(Slip::Replace), Just(Slip::Swap)]
}

fn slipped(key: &str, at: usize, slip: &Slip) -> String {
    let mut chars: Vec<char> = key.chars().collect();
    let at = at % chars.len();
    match slip {
        Slip::Insert(c) => chars.insert(at, *c),
        Slip::Delete => drop(chars.remove(at)),
        Slip::Replace(c) => chars[at] = *c,
        Slip::Swap => {
            let first = at.min(chars.len() - 2);
            chars.swap(first, first + 1);
        }
    }
    chars.into_iter().collect()
}

fn is_written(key: &str) -> bool {
    !key.starts_with('.') && !key.ends_with('.') && !key.contains("..")
}

fn load(text: &str, env: Option<(String, String)>, flags: &[(String, String)]) -> Result<(), Problems> {
    let text = format!("node.region = \"us-east\"\n{text}");
    NodeSettings::parse(&text, Path::new("node.toml"), env.into_iter(), flags).map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_slip_of_one_character_in_a_key_is_accepted(index: prop::sample::Index, at in 0_usize..64, slip in slips()) {
        let keys: Vec<_> = NODE.keys().collect();
        let key = keys[index.index(keys.len())];
        let typed = slipped(key.path, at, &slip);
        prop_assume!(is_written(&typed) && NODE.key(&typed).is_none());
        let value = key.default.filter(|text| !text.is_empty()).unwrap_or(key.example).to_owned();
        let file = load(&format!("{typed} = \"{value}\"\n"), None, &[]);
        let name = format!("ISOCHRONE__{}", typed.replace('.', "__").to_uppercase());
        let env = load("", Some((name, value.clone())), &[]);
        let flag = load("", None, &[(typed.clone(), value)]);
        for (layer, outcome) in [("file", file), ("environment", env), ("flags", flag)] {
            let problems = outcome.err().map(|problems| problems.list().to_vec()).unwrap_or_default();
            // In a variable's name two underscores are a dot, so the dots may stand elsewhere.
            let joined = |path: &str| path.replace(['.', '_'], "");
            let told = |p: &Problem| {
                joined(&typed).starts_with(&joined(&p.key)) && matches!(p.fault, Fault::Unknown { nearest: Some(_) })
            };
            prop_assert!(problems.iter().any(told), "{layer}: {typed} gave {problems:?}");
        }
    }

    #[test]
    fn no_text_makes_the_reading_panic(text in "[a-z.\\[\\]= \"0-9\n{},#]{0,80}", value in "\\PC{0,20}") {
        let _ = load(&text, Some(("ISOCHRONE__PEER__JOIN".to_owned(), value.clone())), &[(value, text.clone())]);
        let _ = isochrone_config::ClusterSpec::parse(&text, "cluster.toml");
    }
}
