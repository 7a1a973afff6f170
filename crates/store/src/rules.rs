//! What every store decides alike.

use shunt_domain::{NewLink, Outcome, StoreError, Timestamp};

/// Whether a link answers with its target at `now`, its limit aside.
pub(crate) fn in_force(link: &NewLink, now: Timestamp) -> bool {
    link.enabled
        && link.valid_from.is_none_or(|from| from <= now)
        && link.expires_at.is_none_or(|end| end > now)
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
