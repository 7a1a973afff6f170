//! What every store decides alike.

use shunt_domain::ports::{Change, ChangeRefusal, IdempotencyScope};
use shunt_domain::{Link, NewLink, Outcome, StoreError, Timestamp};

/// Whether a link answers with its target at `now`, its limit aside.
pub(crate) fn in_force(link: &NewLink, now: Timestamp) -> bool {
    link.enabled
        && link.valid_from.is_none_or(|from| from <= now)
        && link.expires_at.is_none_or(|end| end > now)
}

/// Whether a change may be made of this link. Somebody else's is as if it were not there.
///
/// # Errors
/// Why not.
pub(crate) fn may_change(link: &Link, change: &Change) -> Result<(), ChangeRefusal> {
    if change.owner.is_some_and(|owner| owner != link.data.owner) {
        return Err(ChangeRefusal::NotFound);
    }
    if change.expected.is_some_and(|version| version != link.version) {
        return Err(ChangeRefusal::Stale(link.version));
    }
    Ok(())
}

/// The most idempotency rows that one purge deletes.
pub(crate) const PURGE_ROWS: i64 = 10_000;

/// A scope as stored. Key numbers are counted up from 1, so none is ever this large.
pub(crate) const fn scope(scope: IdempotencyScope) -> i64 {
    match scope {
        IdempotencyScope::Anonymous => i64::MIN,
        IdempotencyScope::Key(id) => id.0.cast_signed(),
    }
}

/// Folds a refusal by the database into a port's own refusal.
pub(crate) fn flatten<T, R>(
    outcome: Outcome<Result<T, R>, StoreError>,
    wrap: impl FnOnce(StoreError) -> R,
) -> Outcome<T, R> {
    match outcome {
        Outcome::Done(Ok(value)) => Outcome::Done(value),
        Outcome::Done(Err(refusal)) => Outcome::Refused(refusal),
        Outcome::Refused(error) => Outcome::Refused(wrap(error)),
        Outcome::Unknown(cause) => Outcome::Unknown(cause),
    }
}
