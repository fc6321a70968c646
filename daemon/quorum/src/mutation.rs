//! Rules that a checker breaks on purpose.

/// A rule that is left out, so that a test can show that it would be missed. `None` everywhere but in such tests.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Q11: a repeated request id is applied again.
    ForgetRequests,
    /// Q11: answers are dropped from the ring at the next write.
    ShortRetention,
    /// Q11: a request that shares its nonce with another is answered as that one was.
    TrustNonces,
    /// Q11: a request past its window is taken.
    TakeOldRequests,
    /// Q6: an accept leaves the promise where it was.
    NoPromiseOnAccept,
    /// Q6: a repeated accept says that `next` is promised, and does not promise it.
    HollowRepeat,
    /// Q9: the highest record that a quorum showed is answered without being written back.
    NoWriteBack,
    /// Q7: a refusal of what was tried before is confirmed by reading alone.
    ConfirmByReading,
    /// Q4: messages of a lower phase are taken.
    NoPhaseCheck,
    /// Q4: whoever joins without continuous membership keeps what it held.
    NoWipe,
    /// Q3: a promise is answered without being kept on disk.
    VolatilePromise,
    /// Q18a: a slot's promise is answered without being kept on disk.
    VolatileSlotPromise,
    /// Q16c: the floor is neither looked at nor set.
    NoFloor,
    /// Q14c: a move ends without a look at the keys.
    NoSweep,
    /// Q14e: a copy carries its record and no promises.
    CopyRecordsOnly,
    /// Q16b: a majority that shows the tombstone is enough.
    ForgetByMajority,
    /// Q16d: an erase is done whatever has been promised above the floor.
    EraseBelowPromise,
    /// Q18d: a grant is used for the same key again.
    ReuseGrant,
    /// Q18e: grants outlive a restart.
    GrantsOutliveRestart,
    /// Q18e: grants outlive a phase.
    GrantsOutlivePhase,
    /// Q18a: an accept looks at the key's own promise only.
    NoEffectivePromise,
    /// Q2: every life of a proposer draws from the same ballots.
    NoIncarnation,
    /// Q15: a lost disk keeps its identity. For models: the room is told of the same member again.
    SameStoreAfterLoss,
    /// Q10: an accept that left is not remembered, so that a timeout after it is told as "nothing happened".
    ForgetAccepts,
    /// Q16a: a tombstone's ring of answered requests is not waited for.
    ForgetEarly,
}
