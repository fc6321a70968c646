//! `isochrone config`.

use std::path::{Path, PathBuf};

use isochrone_config::{CLUSTER, ClusterSpec, NodeSettings, Problems};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::args::{ConfigCommand, OutputFormat};
use super::failure::{Exit, Failure};
use super::output::show;

/// `isochrone config`.
///
/// # Errors
/// Everything that is wrong with the files, or a token that is none.
pub(crate) fn config(command: &ConfigCommand, format: OutputFormat) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { files } => check(files, format),
        ConfigCommand::Show { config, settings } => {
            let loaded = NodeSettings::load(config.as_deref(), environment(), settings).map_err(|problems| invalid(&problems))?;
            let effective = loaded.effective();
            show(format, &effective.to_json(), |_| effective.to_string())?;
            Ok(())
        }
        ConfigCommand::HashToken => hash_token(format),
    }
}

/// The environment's variables that are text; settings cannot be anything else.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Settings that cannot be used, with everything that is wrong.
pub(super) fn invalid(problems: &Problems) -> Failure {
    let list: Vec<String> = problems.list().iter().map(ToString::to_string).collect();
    let mut failure = Failure::failed("the settings cannot be used", format!("\n{}", indented(&list)));
    failure.problem = Some(json!({"problems": list}));
    failure
}

fn indented(list: &[String]) -> String {
    list.iter().map(|problem| format!("  {}", problem.replace('\n', "\n  "))).collect::<Vec<_>>().join("\n")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Node,
    Cluster,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Cluster => "cluster",
        }
    }

    /// What a file is, by its first keys; a file of comments alone by its name.
    fn of(path: &Path, text: &str) -> Self {
        let keys: Vec<String> = text.parse::<toml::Table>().map(|table| table.keys().cloned().collect()).unwrap_or_default();
        let is_of_cluster = |key: &String| CLUSTER.keys().any(|known| known.path == key);
        let is_cluster = match keys.is_empty() {
            true => path.file_name().is_some_and(|name| name.to_string_lossy().contains("cluster")),
            false => keys.iter().any(is_of_cluster),
        };
        if is_cluster { Self::Cluster } else { Self::Node }
    }
}

/// Checks each file by itself: the environment is not looked at.
fn check(files: &[PathBuf], format: OutputFormat) -> Result<(), Failure> {
    let mut checked = Vec::new();
    let mut wrong = 0;
    for path in files {
        let (kind, problems) = check_file(path)?;
        wrong += usize::from(!problems.is_empty());
        checked.push(json!({"file": path.display().to_string(), "kind": kind.name(), "ok": problems.is_empty(), "problems": problems}));
    }
    show(format, &Value::Array(checked), |checked| checked.as_array().into_iter().flatten().map(checked_text).collect())?;
    if wrong > 0 {
        return Err(Failure::failed("the settings cannot be used", format!("{wrong} of {} files have mistakes", files.len())));
    }
    Ok(())
}

fn check_file(path: &Path) -> Result<(Kind, Vec<String>), Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    let kind = Kind::of(path, &text);
    let result = match kind {
        Kind::Cluster => ClusterSpec::read(path).map(|_| ()),
        Kind::Node => NodeSettings::parse(&text, path, std::iter::empty(), &[]).map(|_| ()),
    };
    Ok((kind, result.err().map(|problems| problems.list().iter().map(ToString::to_string).collect()).unwrap_or_default()))
}

fn checked_text(checked: &Value) -> String {
    let (file, kind) = (checked["file"].as_str().unwrap_or_default(), checked["kind"].as_str().unwrap_or_default());
    let problems: Vec<String> =
        checked["problems"].as_array().into_iter().flatten().filter_map(|p| p.as_str()).map(str::to_owned).collect();
    if problems.is_empty() {
        format!("{file}: a good {kind} file\n")
    } else {
        format!("{file}: a {kind} file with mistakes\n{}\n", indented(&problems))
    }
}

fn hash_token(format: OutputFormat) -> Result<(), Failure> {
    let typed = std::io::read_to_string(std::io::stdin()).map_err(|error| Failure::failed("cannot read the token", error.to_string()))?;
    let hash = hash(&typed)?;
    show(format, &json!({"sha256": hash}), |_| hash.clone())?;
    Ok(())
}

/// The hash of a token as files want it: SHA-256 in hexadecimal, white space around the token left off.
fn hash(typed: &str) -> Result<String, Failure> {
    let token = typed.trim();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Failure::new(Exit::Usage, "that is no token", "one line without blanks is wanted on stdin")
            .advise("Make one: `openssl rand -hex 32 | tee token | isochrone config hash-token`"));
    }
    Ok(Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use isochrone_config::TokenHash;

    use super::*;

    #[test]
    fn a_token_hashes_to_what_files_want() {
        let sum = hash("secret\n").expect("a token");
        assert_eq!(sum, "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b");
        assert!(sum.parse::<TokenHash>().is_ok());
        assert!(hash(" \n").is_err() && hash("a b").is_err());
    }

    #[test]
    fn files_are_told_apart_by_their_keys() {
        let kind = |name: &str, text: &str| Kind::of(Path::new(name), text);
        assert_eq!(kind("a.toml", "[node]\nregion = \"x\""), Kind::Node);
        assert_eq!(kind("a.toml", "[[namespace]]\nname = \"x\""), Kind::Cluster);
        assert_eq!(kind("cluster.toml", "# nothing yet"), Kind::Cluster);
        assert_eq!(kind("node.toml", "# nothing yet"), Kind::Node);
        assert_eq!(kind("node.toml", "= broken"), Kind::Node);
    }

    #[test]
    fn every_mistake_of_a_file_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "[node]\nregion = \"us-east\"\n[http]\nlisten = 5\n[htpt]\nx = 1\n").expect("written");
        let (kind, problems) = check_file(&path).expect("readable");
        assert_eq!(kind, Kind::Node);
        assert!(problems.len() >= 2, "{problems:?}");
        assert!(check(&[path], OutputFormat::Json).is_err());
    }
}
