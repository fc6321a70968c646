//! Catching up after a lapse (E5): a peer has trimmed its log before this node had all of it.
//!
//! The peer still holds what it took. Of a slot that it is a replica of, this node takes whatever it lacks. Of another slot the peer keeps its own writes, or what
//! has beaten them, until they are delivered everywhere (see the sweep in `upkeep`), and this node being lapsed they are not: these rows it takes as well.

use std::sync::Arc;

use isochrone_ident::{NodeId, Slot};
use isochrone_replica::{Differing, Item, Sequence, Verdict};
use isochrone_store::parse_item_name;

use super::compare::{Asking, OTHER, Tally};
use super::mend::{Source, Wanted};
use super::words::{Ask, Shown};
use crate::node::core::Core;
use crate::node::view::View;
use crate::node::wire::FeedAnswer;

impl Core {
    /// Compares with a peer until that comes to an end, as often as it takes. May be given up half way.
    pub(crate) async fn catch_up_after_lapse(self: Arc<Self>, peer: NodeId, through: Sequence) -> FeedAnswer {
        let (mut pause, longest) = self.options.backoff;
        tracing::info!(%peer, "its log is not whole for us: comparing");
        loop {
            match self.try_catch_up(peer).await {
                Ok(tally) => {
                    tracing::info!(%peer, keys = tally.keys_pulled, "caught up");
                    return FeedAnswer::CaughtUp { through };
                }
                Err(reason) => tracing::debug!(%peer, reason, "not caught up yet; trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn try_catch_up(&self, peer: NodeId) -> Result<Tally, String> {
        let asking = self.asking(peer, None, true);
        let mut tally = Tally::default();
        let slots: Vec<Slot> = self.differing_slots(&asking, &mut tally).await?;
        tally.add(&self.mend_slots(&asking, &slots).await?);
        self.take_undelivered(&asking, &mut tally).await?;
        Ok(tally)
    }

    /// Takes what the peer took for slots that it is no replica of.
    async fn take_undelivered(&self, asking: &Asking, tally: &mut Tally) -> Result<(), String> {
        let mut after = None;
        loop {
            let ask = Ask::Undelivered { after };
            let Shown::Undelivered(items, next) = self.ask_to_compare(asking, ask, tally).await? else { return Err(OTHER.to_owned()) };
            let wanted: Vec<Wanted> = items.iter().filter_map(|item| self.lent(asking, item)).collect();
            self.mend_from(asking, Source::Taker, &wanted, tally).await?;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// The key of a row that this node may lack something of.
    fn lent(&self, asking: &Asking, theirs: &Item) -> Option<Wanted> {
        let (ns, kind, key) = parse_item_name(&theirs.name).ok()?;
        let slot = View::slot(&ns, key.as_bytes());
        let mine = self.store.get(slot, &ns, kind, key.as_bytes()).ok()?;
        // Whether two states of one version are alike only their fingerprints say: such a row is pulled.
        let mine = mine.map(|record| Item { version: record.version, gone_at: None, ..theirs.clone() });
        let verdict = self.grounds(true).0.judge(&Differing { mine: mine.as_ref(), theirs: Some(theirs) }, kind, |_| true);
        (verdict == Verdict::Pull && asking.scope.is_lent(slot, &ns)).then_some(Wanted { slot, name: (ns, kind, key) })
    }
}
