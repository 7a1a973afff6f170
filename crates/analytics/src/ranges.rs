//! Sets of event numbers, kept as sorted runs: what of a lane is counted already.
//!
//! Invariant: runs are sorted, do not overlap and do not touch, so equal sets are equal values.

/// A set of numbers as inclusive runs. Almost always one run, or a few with gaps between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    runs: Vec<(u64, u64)>,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// Adds `first` to `last`, both inclusive (nothing if `first > last`); what is there already
    /// stays. O(log n) for a run at the end, else O(n).
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        // The runs that overlap or touch the new one: from `from` up to, not including, `to`.
        let from = self.runs.partition_point(|&(_, end)| end < first && first - end > 1);
        let to = from
            + self.runs[from..].partition_point(|&(start, _)| start <= last || start - last <= 1);
        if from == to {
            self.runs.insert(from, (first, last));
            return;
        }
        let merged = (first.min(self.runs[from].0), last.max(self.runs[to - 1].1));
        self.runs[from] = merged;
        self.runs.drain(from + 1..to);
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let at = self.runs.partition_point(|&(_, end)| end < number);
        self.runs.get(at).is_some_and(|&(start, _)| start <= number)
    }

    /// Whether all of `first` to `last` is in the set.
    pub fn contains_all(&self, first: u64, last: u64) -> bool {
        let at = self.runs.partition_point(|&(_, end)| end < first);
        self.runs.get(at).is_some_and(|&(start, end)| start <= first && end >= last)
    }

    /// The parts of `first` to `last` that are in the set, in order.
    pub fn overlap(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let at = self.runs.partition_point(|&(_, end)| end < first);
        self.runs[at..]
            .iter()
            .take_while(move |&&(start, _)| start <= last)
            .map(move |&(start, end)| (start.max(first), end.min(last)))
    }

    /// Whether any of `first` to `last` is in the set.
    pub fn overlaps(&self, first: u64, last: u64) -> bool {
        self.overlap(first, last).next().is_some()
    }

    /// How many numbers the set holds; saturates at `u64::MAX` (the set of all numbers).
    pub fn len(&self) -> u64 {
        self.runs.iter().fold(0, |sum: u64, &(first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }

    /// Whether the set is empty.
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs, both ends inclusive, in order.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.runs.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(
            inserts in proptest::collection::vec((0_u64..120, 0_u64..25), 0..40),
            probe in (0_u64..150, 0_u64..40),
        ) {
            let mut set = RangeSet::new();
            let mut model = BTreeSet::new();
            for (first, len) in inserts {
                // A length of 0 is an empty run.
                set.insert(first + 1, first + len);
                model.extend(first + 1..=first + len);
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            for number in 0..170 {
                prop_assert_eq!(set.contains(number), model.contains(&number));
            }
            let (first, last) = (probe.0, probe.0 + probe.1);
            let overlap: Vec<u64> = set.overlap(first, last).flat_map(|(a, b)| a..=b).collect();
            let expected: Vec<u64> = model.range(first..=last).copied().collect();
            prop_assert_eq!(set.contains_all(first, last), expected.len() as u64 == probe.1 + 1);
            prop_assert_eq!(set.overlaps(first, last), !expected.is_empty());
            prop_assert_eq!(overlap, expected);
            let runs: Vec<_> = set.runs().collect();
            prop_assert!(runs.iter().all(|(a, b)| a <= b));
            prop_assert!(runs.windows(2).all(|w| w[1].0 - w[0].1 > 1), "runs touch: {:?}", runs);
        }
    }

    #[test]
    fn the_ends_of_the_number_line_work() {
        let mut set = RangeSet::new();
        set.insert(u64::MAX, u64::MAX);
        set.insert(0, 0);
        assert!(set.contains(u64::MAX) && set.contains(0) && !set.contains(1));
        set.insert(1, u64::MAX - 1);
        assert_eq!(set.runs().collect::<Vec<_>>(), [(0, u64::MAX)]);
        assert_eq!(set.len(), u64::MAX);
    }
}
