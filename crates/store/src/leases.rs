//! Ranges that a process has leased, start to end, kept by stores that many processes share.

use std::collections::BTreeMap;

use shunt_domain::ports::Range;

/// Takes a rest out of the leases that this process holds, whose neighbours stay leased. `false`:
/// it is no part of one. Anything else was given back already, or belongs to a life that is over:
/// handing it out again could repeat a code.
pub(crate) fn let_go(leases: &mut BTreeMap<u64, u64>, rest: Range) -> bool {
    let held = leases.range(..=rest.start).next_back();
    let Some((&start, &end)) = held.filter(|(_, end)| rest.end <= **end) else { return false };
    if rest.start >= rest.end {
        return false;
    }
    leases.remove(&start);
    if start < rest.start {
        leases.insert(start, rest.start);
    }
    if rest.end < end {
        leases.insert(rest.end, end);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_held_is_let_go_and_only_once() {
        let mut leases = BTreeMap::from([(100, 200), (300, 310)]);
        let mut go = |start, end| let_go(&mut leases, Range { start, end });
        assert!(!go(90, 110) && !go(150, 201) && !go(250, 260) && !go(120, 120) && !go(0, 400));
        assert!(go(150, 200));
        assert!(!go(150, 200) && !go(140, 160));
        assert!(go(120, 130));
        assert!(go(100, 120) && go(130, 150) && go(300, 310));
        assert!(leases.is_empty());
    }
}
