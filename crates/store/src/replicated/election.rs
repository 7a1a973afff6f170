//! Which copy is the primary: pure judgement over what the copies say of themselves.

/// What a copy that answers says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// It is a standby.
    pub(super) in_recovery: bool,
    /// Its timeline.
    pub(super) timeline: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Elected {
    /// The one copy that may be written to.
    pub(super) primary: Option<usize>,
    /// Others take writes as well: an old primary that came back, or a second promotion.
    pub(super) rivals: bool,
}

/// Judges. `highest` is the highest timeline that any copy was ever seen on: every promotion
/// begins a new one, so what takes writes on a lower one is a primary that was replaced, and is
/// never written to even when nobody else is there. Of two on the same timeline, which only two
/// promotions at once can make, the `current` one stays.
pub(super) fn elect(claims: &[Option<Claim>], highest: u64, current: Option<usize>) -> Elected {
    let writable = || {
        let all = claims.iter().enumerate();
        all.filter_map(|(at, claim)| claim.filter(|claim| !claim.in_recovery).map(|c| (at, c)))
    };
    let rightful = || writable().filter(|(_, claim)| claim.timeline >= highest);
    let stays = rightful().find(|(at, _)| Some(*at) == current);
    let primary = stays.or_else(|| rightful().next()).map(|(at, _)| at);
    Elected { primary, rivals: writable().any(|(at, _)| Some(at) != primary) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn standby(timeline: u64) -> Option<Claim> {
        Some(Claim { in_recovery: true, timeline })
    }

    const fn primary(timeline: u64) -> Option<Claim> {
        Some(Claim { in_recovery: false, timeline })
    }

    fn elected(
        claims: &[Option<Claim>],
        highest: u64,
        current: Option<usize>,
    ) -> (Option<usize>, bool) {
        let Elected { primary, rivals } = elect(claims, highest, current);
        (primary, rivals)
    }

    #[test]
    fn the_one_that_takes_writes_is_the_primary() {
        assert_eq!(elected(&[primary(1), standby(1)], 1, None), (Some(0), false));
        assert_eq!(elected(&[standby(1), primary(1)], 1, Some(0)), (Some(1), false));
        assert_eq!(elected(&[None, standby(1)], 1, Some(0)), (None, false));
        assert_eq!(elected(&[], 0, None), (None, false));
    }

    #[test]
    fn one_that_was_replaced_is_never_the_primary_again() {
        assert_eq!(elected(&[primary(1), primary(2)], 2, Some(0)), (Some(1), true));
        // The new one is gone for a moment.
        assert_eq!(elected(&[primary(1), None], 2, Some(1)), (None, true));
        // Only a standby of the new one is there to tell.
        assert_eq!(elected(&[primary(1), standby(2)], 2, None), (None, true));
    }

    #[test]
    fn of_two_equals_the_current_one_stays() {
        let claims = [None, primary(2), primary(2)];
        assert_eq!(elected(&claims, 2, Some(2)), (Some(2), true));
        assert_eq!(elected(&claims, 2, None), (Some(1), true));
    }
}
