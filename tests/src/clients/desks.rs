//! Where clients that roam find a daemon: each daemon serves its desk on its own host, as long as it lives.

use std::sync::Arc;
use std::time::Duration;

use isochrone_edge::Api;
use tokio::sync::{mpsc, oneshot};

use crate::clients::calls::{Answer, Call, send};
use crate::shared::{Shared, lock};

/// A request that waits at a desk, and where its answer goes.
pub type Job = (Call, oneshot::Sender<Answer>);
/// A daemon's desk, seen from outside; `None` before its first start.
pub type Desk = Option<mpsc::UnboundedSender<Job>>;

/// How a visit ended.
#[derive(Debug)]
pub enum Visit {
    /// No daemon was there: nothing happened.
    Nobody,
    /// It went away with the request.
    Lost,
    /// It answered.
    Answered(Answer),
}

/// Opens the desk of a daemon that has just started, in place of its last life's, and serves it.
pub fn open(shared: &Arc<Shared>, me: usize, api: Api) {
    // Never long: every client waits for its answer before it asks again.
    let (desk, mut jobs) = mpsc::unbounded_channel::<Job>();
    lock(&shared.desks)[me] = Some(desk);
    tokio::spawn(async move {
        while let Some((call, reply)) = jobs.recv().await {
            let api = api.clone();
            tokio::spawn(async move {
                // The client may have gone home.
                let _ = reply.send(send(&api, call).await);
            });
        }
    });
}

/// Goes to a daemon, which takes that long, and waits there for the answer.
pub async fn visit(shared: &Shared, daemon: usize, travel: Duration, call: Call) -> Visit {
    tokio::time::sleep(travel).await;
    let Some(desk) = lock(&shared.desks)[daemon].clone() else { return Visit::Nobody };
    let (reply, answer) = oneshot::channel();
    if desk.send((call, reply)).is_err() {
        return Visit::Nobody;
    }
    answer.await.map_or(Visit::Lost, Visit::Answered)
}
