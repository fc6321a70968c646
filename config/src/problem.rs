//! What is wrong with what was typed: all of it at once, each with its place.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written, and so where it can be put right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere: the default stands.
    Default,
    /// In a file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, from 1; `None` for the file as a whole.
        line: Option<usize>,
    },
    /// In an environment variable of that name.
    Env(String),
    /// In a flag that sets that key.
    Flag(String),
}

impl Origin {
    /// The word for this kind of place: `default`, `file`, `env` or `flag`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Env(_) => "env",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(key) => write!(f, "flag {key}"),
        }
    }
}

/// What is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The text is not TOML there; what the parser says.
    Syntax(String),
    /// No such key; the nearest known one, in the spelling of that place.
    Unknown {
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// The value is of another type or outside its range; what is allowed.
    Invalid {
        /// What is allowed, as a phrase.
        allowed: String,
    },
    /// A key without a default was not given; what it takes.
    Missing {
        /// What is allowed, as a phrase.
        allowed: String,
    },
    /// Keys that are each valid contradict each other; what to do.
    Rule(String),
    /// A file could not be read; why.
    Unreadable(String),
}

/// One thing that is wrong, with all that is needed to put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The key, dotted; empty when the fault is none of a single key.
    pub key: String,
    /// What was written, as it was, cut when long; never a secret.
    pub value: Option<String>,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match (self.key.as_str(), &self.value) {
            ("", _) => {}
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
            (key, None) => write!(f, "{key}: ")?,
        }
        match &self.fault {
            Fault::Syntax(message) => write!(f, "not valid TOML: {message}"),
            Fault::Unknown { nearest: Some(nearest) } => write!(f, "unknown key; did you mean {nearest}?"),
            Fault::Unknown { nearest: None } => f.write_str("unknown key, and nothing known is near it"),
            Fault::Invalid { allowed } => write!(f, "must be {allowed}"),
            Fault::Missing { allowed } => write!(f, "has no default and was not given; must be {allowed}"),
            Fault::Rule(what) => f.write_str(what),
            Fault::Unreadable(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

/// Every problem that was found, at least one, in the order of their places. Nothing was made of the settings that have them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `Err` with these problems, sorted by place and each told once; `Ok` when there are none.
    pub(crate) fn none_of(mut problems: Vec<Problem>) -> Result<(), Self> {
        problems.sort_by(|a, b| (&a.origin, &a.key).cmp(&(&b.origin, &b.key)));
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(Self(problems)) }
    }

    /// Just this problem.
    pub(crate) fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The problems, at least one.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
