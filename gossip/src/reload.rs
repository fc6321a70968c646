//! Live reload of certificates (rule M4): by hand, and by watching the files.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::shared::Core;
use crate::tls::TlsError;
use crate::{endpoint, metrics};

/// Files that belong together are rarely written at the same instant: wait until it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(300);
/// The files are looked at again now and then even when no change was seen, as some file systems tell of none.
const ANYWAY: Duration = Duration::from_secs(60);

/// New certificates that were not taken. The old ones stay in use (M4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificates not reloaded, the old ones stay in use: {0}")]
pub struct ReloadError(#[from] pub TlsError);

/// Reads the certificates again, and uses them for new connections if they are good. Whether they differed from those in use.
pub(crate) fn reload(core: &Core) -> Result<bool, ReloadError> {
    let material = core.options.credentials.load(&core.me.identity, &core.options.wall).inspect_err(|_| metrics::reload("refused"))?;
    if material.fingerprint == core.material.load().fingerprint {
        return Ok(false);
    }
    let server = endpoint::server_config_of(&material, &core.transport, core.options.bounds.handshakes_max);
    core.endpoint.set_server_config(Some(server));
    metrics::certificate(material.expires_at);
    core.material.store(Arc::new(material));
    metrics::reload("taken");
    Ok(true)
}

/// Begins to watch the files' directories: files are replaced by renaming, and whole directories by links.
///
/// # Errors
/// What the system says; nothing is watched then.
pub(crate) fn watch(core: &Arc<Core>) -> notify::Result<()> {
    let files = core.options.credentials.files();
    let (changed, changes) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |_| {
        // One waiting change stands for all.
        let _ = changed.try_send(());
    })?;
    let directories: BTreeSet<PathBuf> = files.iter().filter_map(|file| Some(file.canonicalize().ok()?.parent()?.to_owned())).collect();
    let beside =
        files.iter().filter_map(|file| file.parent()).map(|d| if d.as_os_str().is_empty() { PathBuf::from(".") } else { d.to_owned() });
    for directory in directories.into_iter().chain(beside).collect::<BTreeSet<_>>() {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    }
    tokio::spawn(follow(core.clone(), changes, watcher));
    Ok(())
}

async fn follow(core: Arc<Core>, mut changes: mpsc::Receiver<()>, _watcher: notify::RecommendedWatcher) {
    let mut left = core.left.subscribe();
    // What was refused, so that it is said once and not every minute.
    let mut refused = None;
    loop {
        tokio::select! {
            biased;
            _ = left.wait_for(|left| *left) => return,
            _ = timeout(ANYWAY, changes.recv()) => {}
        }
        sleep(QUIET).await;
        while changes.try_recv().is_ok() {
            sleep(QUIET).await;
        }
        match reload(&core) {
            Ok(true) => info!("certificates reloaded"),
            Ok(false) => {}
            Err(error) if refused.as_ref() == Some(&error) => continue,
            Err(error) => {
                warn!(%error, "bad certificates");
                refused = Some(error);
                continue;
            }
        }
        refused = None;
    }
}
