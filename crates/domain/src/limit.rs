//! Rate limits: what is limited, for whom, how much of it, and the rule that judges.
//!
//! The rule is GCRA, the generic cell rate algorithm in its virtual scheduling form (ITU-T I.371,
//! annex A; ATM Forum Traffic Management 4.0, section 4.4.2): all that is kept of somebody is one
//! instant, the *theoretical arrival time*, at which everything used so far is earned back.
//! Nothing refills anything in the background, and an instant in the past is as good as none.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::key::ApiKeyId;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// Making links.
    Create,
    /// Look-ups that end with "there is no such link": guessing codes.
    RedirectMiss,
    /// Credentials that are not good: guessing keys.
    Login,
}

impl LimitKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Create, Self::RedirectMiss, Self::Login];

    /// Its name in headers, metrics and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::RedirectMiss => "redirect-miss",
            Self::Login => "login",
        }
    }
}

/// Whom an address counts as: an IPv4 address, or the /64 that one IPv6 customer gets.
pub fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A [`customer`] as limits know it: a keyed hash of its address. The address itself goes no
/// further than the place where this is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientHash(pub [u8; 16]);

impl fmt::Debug for ClientHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientHash(…)")
    }
}

/// Whose allowance is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitSubject {
    /// The bearer of an API key.
    Key(ApiKeyId),
    /// Whoever comes from one address.
    Client(ClientHash),
}

/// One allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// For what.
    pub kind: LimitKind,
    /// Of whom.
    pub subject: LimitSubject,
}

/// How much is allowed: `amount` units in `window`. Whoever used nothing for a whole window may
/// use all of it at once; it comes back unit by unit, evenly. So one window can see up to twice the
/// amount, any long time sees the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    amount: u32,
    /// Microseconds in which one unit comes back.
    emission: u64,
}

impl Rate {
    /// The largest amount.
    pub const MAX_AMOUNT: u32 = 1_000_000;
    /// The shortest window.
    pub const MIN_WINDOW: Duration = Duration::from_secs(1);
    /// The longest window.
    pub const MAX_WINDOW: Duration = Duration::from_secs(86_400);

    /// A rate; `None` for an amount of 0, or beyond the bounds.
    pub fn new(amount: u32, window: Duration) -> Option<Self> {
        let fits = (1..=Self::MAX_AMOUNT).contains(&amount)
            && (Self::MIN_WINDOW..=Self::MAX_WINDOW).contains(&window);
        // At least a microsecond: a million units in a second.
        fits.then(|| Self { amount, emission: micros(window) / u64::from(amount) })
    }

    /// How many units there are when nothing was used for a window.
    pub const fn amount(self) -> u32 {
        self.amount
    }

    /// The time in which all units come back, less than `amount` microseconds shorter than asked.
    pub const fn window(self) -> Duration {
        Duration::from_micros(self.tolerance())
    }

    /// Microseconds in which one unit comes back.
    pub const fn emission_micros(self) -> u64 {
        self.emission
    }

    /// How far the theoretical arrival time may lie ahead, in microseconds.
    const fn tolerance(self) -> u64 {
        self.emission * self.amount as u64
    }

    /// How far it can be pushed ahead by what is counted without asking, in microseconds: ten
    /// windows, an hour at least. Bounded, so that one burst shuts nobody out for days.
    pub const fn debt_micros(self) -> u64 {
        const HOUR: u64 = 3_600_000_000;
        let windows = self.tolerance() * 10;
        if windows > HOUR { windows } else { HOUR }
    }
}

/// How a use is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// Before the fact: what is not allowed is not counted.
    Ask,
    /// After the fact: it is counted whether or not there was an allowance left, so what many
    /// requests at once got away with is paid back before anything else is allowed.
    Tell,
}

/// What a limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitAnswer {
    /// Whether this use was within the allowance.
    pub allowed: bool,
    /// Units that are left now.
    pub remaining: u32,
    /// When all of them are back.
    pub reset: Duration,
    /// When the next unit is there; zero while there is one.
    pub retry_after: Duration,
}

impl LimitAnswer {
    /// The answer about a use of `cost` units after which the theoretical arrival time lies `ahead`
    /// of now, in microseconds. What was refused waits for all of its units, everything else for
    /// the next one.
    pub fn new(rate: Rate, cost: u32, counting: Counting, allowed: bool, ahead: u64) -> Self {
        let ahead = ahead.min(rate.debt_micros());
        let wanted = match counting {
            Counting::Ask if !allowed => cost.min(rate.amount),
            Counting::Ask | Counting::Tell => 1,
        };
        let room = rate.tolerance().saturating_sub(ahead);
        let short = (ahead + u64::from(wanted) * rate.emission).saturating_sub(rate.tolerance());
        Self {
            allowed,
            // At most the amount.
            remaining: u32::try_from(room / rate.emission).unwrap_or(rate.amount),
            reset: Duration::from_micros(ahead),
            retry_after: Duration::from_micros(short),
        }
    }

    /// The stricter one of two answers about the same use.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            allowed: self.allowed && other.allowed,
            remaining: self.remaining.min(other.remaining),
            reset: self.reset.max(other.reset),
            retry_after: self.retry_after.max(other.retry_after),
        }
    }
}

/// Counts a use of `cost` units at `now`. `arrival` is the theoretical arrival time, which changes
/// unless the use was refused; both are microseconds of one clock. A cost beyond the amount is
/// allowed to whoever has all of it.
pub fn gcra(rate: Rate, arrival: &mut u64, now: u64, cost: u32, counting: Counting) -> LimitAnswer {
    // An arrival further ahead than any debt is another clock's.
    let ahead = arrival.saturating_sub(now).min(rate.debt_micros());
    let asked = u64::from(cost.min(rate.amount)) * rate.emission;
    let allowed = match counting {
        Counting::Ask => ahead + asked <= rate.tolerance(),
        Counting::Tell => ahead + rate.emission <= rate.tolerance(),
    };
    if !allowed && counting == Counting::Ask {
        return LimitAnswer::new(rate, cost, counting, false, ahead);
    }
    let used = u64::from(cost).saturating_mul(rate.emission);
    let ahead = ahead.saturating_add(used).min(rate.debt_micros());
    *arrival = now + ahead;
    LimitAnswer::new(rate, cost, counting, allowed, ahead)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn rate(amount: u32, seconds: u64) -> Rate {
        Rate::new(amount, Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn the_whole_amount_at_once_then_one_by_one() {
        let rate = rate(60, 60);
        let mut arrival = 0;
        let now = 1_000 * SECOND;
        for left in (0..60).rev() {
            let answer = gcra(rate, &mut arrival, now, 1, Counting::Ask);
            assert!(answer.allowed);
            assert_eq!(answer.remaining, left);
        }
        let refused = gcra(rate, &mut arrival, now, 1, Counting::Ask);
        assert!(!refused.allowed);
        assert_eq!(refused.remaining, 0);
        assert_eq!(refused.retry_after, Duration::from_secs(1));
        assert_eq!(refused.reset, Duration::from_secs(60));
        // Refused uses cost nothing.
        assert!(!gcra(rate, &mut arrival, now + SECOND - 1, 1, Counting::Ask).allowed);
        assert!(gcra(rate, &mut arrival, now + SECOND, 1, Counting::Ask).allowed);
        assert!(!gcra(rate, &mut arrival, now + SECOND, 1, Counting::Ask).allowed);
        let rested = gcra(rate, &mut arrival, now + 61 * SECOND, 1, Counting::Ask);
        assert_eq!((rested.allowed, rested.remaining), (true, 59));
    }

    #[test]
    fn what_is_told_becomes_a_debt_that_is_bounded() {
        let rate = rate(10, 60);
        let mut arrival = 0;
        for n in 0..100 {
            let answer = gcra(rate, &mut arrival, SECOND, 1, Counting::Tell);
            assert_eq!(answer.allowed, n < 10, "{n}");
        }
        // 90 units too many, six seconds each.
        let refused = gcra(rate, &mut arrival, SECOND, 1, Counting::Ask);
        assert_eq!(refused.retry_after, Duration::from_secs(91 * 6));
        gcra(rate, &mut arrival, SECOND, u32::MAX, Counting::Tell);
        assert_eq!(arrival, SECOND + 3_600 * SECOND);
    }

    #[test]
    fn costs_of_many_units() {
        let rate = rate(10, 10);
        let mut arrival = 0;
        assert!(gcra(rate, &mut arrival, 0, 7, Counting::Ask).allowed);
        let refused = gcra(rate, &mut arrival, 0, 7, Counting::Ask);
        assert_eq!((refused.allowed, refused.remaining), (false, 3));
        assert_eq!(refused.retry_after, Duration::from_secs(4));
        assert!(gcra(rate, &mut arrival, 0, 3, Counting::Ask).allowed);
        // More than there ever is: only with a full allowance, and then paid back.
        assert!(!gcra(rate, &mut arrival, 9 * SECOND, 25, Counting::Ask).allowed);
        assert!(gcra(rate, &mut arrival, 10 * SECOND, 25, Counting::Ask).allowed);
        assert_eq!(arrival, 35 * SECOND);
    }

    #[test]
    fn another_clocks_instant_locks_nobody_out() {
        let rate = rate(60, 60);
        let mut arrival = u64::MAX / 2;
        let refused = gcra(rate, &mut arrival, 0, 1, Counting::Ask);
        assert!(refused.retry_after <= Duration::from_secs(3_600));
    }

    #[test]
    fn rates_have_bounds() {
        assert!(Rate::new(0, Duration::from_secs(60)).is_none());
        assert!(Rate::new(Rate::MAX_AMOUNT + 1, Duration::from_secs(60)).is_none());
        assert!(Rate::new(1, Duration::from_millis(999)).is_none());
        assert!(Rate::new(1, Duration::from_secs(86_401)).is_none());
        assert_eq!(Rate::new(Rate::MAX_AMOUNT, Rate::MIN_WINDOW).unwrap().emission_micros(), 1);
    }

    proptest! {
        /// Over any time the rate holds: never more than the amount and what came back meanwhile.
        #[test]
        fn the_rate_holds(
            amount in 1_u32..50,
            window in 1_u64..100,
            steps in prop::collection::vec((0_u64..3_000_000, 1_u32..5), 1..200),
        ) {
            let rate = rate(amount, window);
            let (mut arrival, mut now, mut used) = (0, 0, 0_u64);
            for (step, cost) in steps {
                now += step;
                let cost = cost.min(amount);
                let answer = gcra(rate, &mut arrival, now, cost, Counting::Ask);
                if answer.allowed {
                    used += u64::from(cost);
                } else {
                    // The time it names is the very one at which it is allowed.
                    let wait = micros(answer.retry_after);
                    prop_assert!(wait > 0);
                    let mut later = arrival;
                    prop_assert!(gcra(rate, &mut later, now + wait, cost, Counting::Ask).allowed);
                    let mut early = arrival;
                    let before = now + wait - 1;
                    prop_assert!(!gcra(rate, &mut early, before, cost, Counting::Ask).allowed);
                }
                let earned = now / rate.emission_micros();
                prop_assert!(used <= u64::from(amount) + earned);
                prop_assert!(answer.remaining <= amount);
            }
        }
    }
}
