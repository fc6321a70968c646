//! Completions and man pages, from the one definition of the commands.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::args::{Cli, OutputFormat};
use super::failure::Failure;
use super::output::{line, show};

/// Prints a completion script.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    line(String::from_utf8_lossy(&script(shell)).trim_end())?;
    Ok(())
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "isochrone", &mut script);
    script
}

/// Writes `isochrone.1` and a page for each command.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn man(dir: &Path, format: OutputFormat) -> Result<(), Failure> {
    let pages = pages(dir)?;
    let names: Vec<String> = pages.iter().map(|page| page.display().to_string()).collect();
    show(format, &json!({"pages": names}), |_| format!("wrote {} pages into {}", names.len(), dir.display()))?;
    Ok(())
}

fn pages(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unwritable = |error| Failure::file("write man pages into", dir, &error);
    std::fs::create_dir_all(dir).map_err(unwritable)?;
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut written = Vec::new();
    let mut pending = vec![root];
    while let Some(command) = pending.pop() {
        pending.extend(command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned());
        written.push(clap_mangen::Man::new(command).generate_to(dir).map_err(unwritable)?);
    }
    written.sort();
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_completions_that_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = String::from_utf8(script(shell)).expect("text");
            assert!(script.contains("placement") && script.contains("repair") && script.contains("hash-token"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().expect("a directory");
        let pages = pages(dir.path()).expect("written");
        let names: Vec<String> = pages.iter().filter_map(|page| page.file_name()).map(|name| name.display().to_string()).collect();
        for name in [
            "isochrone.1",
            "isochrone-import.1",
            "isochrone-certs-node.1",
            "isochrone-members-remove.1",
            "isochrone-dev.1",
            "isochrone-incr.1",
            "isochrone-repair.1",
        ] {
            assert!(names.iter().any(|page| page == name), "{name} of {names:?}");
        }
        let page = std::fs::read_to_string(dir.path().join("isochrone.1")).expect("read");
        assert!(page.contains("Exit codes"), "the exit codes are documented");
    }
}
