//! When codes get longer: a sliding window over the last draws.

/// How many draws count as recent.
const WINDOW: usize = 256;

/// So many collisions among them are more than a tenth. Draws that were not made yet count as
/// successes, so that three unlucky codes on an empty store do not make all later ones longer.
const LIMIT: u32 = WINDOW as u32 / 10 + 1;

/// The last draws, a bit each: set when the primary key refused the code.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    bits: [u64; WINDOW / 64],
    next: usize,
    collided: u32,
}

impl Window {
    /// Takes in the fate of `drawn` codes, `collided` of which were taken. The order within one
    /// report is not known: collisions are spread evenly. At most 256 steps.
    pub(super) fn report(&mut self, drawn: usize, collided: usize) {
        let collided = collided.min(drawn) as u128;
        let total = drawn as u128;
        for at in drawn.saturating_sub(WINDOW)..drawn {
            let at = at as u128;
            self.push((at + 1) * collided / total > at * collided / total);
        }
    }

    fn push(&mut self, collided: bool) {
        let bit = 1_u64 << (self.next % 64);
        if let Some(word) = self.bits.get_mut(self.next / 64) {
            self.collided -= u32::from(*word & bit != 0);
            *word = if collided { *word | bit } else { *word & !bit };
            self.collided += u32::from(collided);
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// Whether more than a tenth of the window collided.
    pub(super) const fn crowded(&self) -> bool {
        self.collided >= LIMIT
    }

    /// Forgets everything: the codes drawn next come from another space.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exactly_a_tenth_is_not_more_than_a_tenth() {
        let mut window = Window::default();
        window.report(256, 25);
        assert!(!window.crowded());
        window.report(1, 1);
        assert!(window.crowded(), "26 of 256");
    }

    #[test]
    fn old_draws_slide_out() {
        let mut window = Window::default();
        window.report(26, 26);
        assert!(window.crowded());
        window.report(255, 0);
        assert_eq!(window.collided, 1, "all but the last of the collisions slid out");
        assert!(!window.crowded());
    }

    #[test]
    fn large_reports_are_scaled_to_the_window() {
        let mut window = Window::default();
        window.report(1_000_000, 90_000);
        assert!(!window.crowded(), "9 %");
        window.report(1_000_000, 120_000);
        assert!(window.crowded(), "12 %");
        window.report(10, 1_000);
        assert!(window.collided <= WINDOW as u32);
    }

    proptest! {
        /// The bits agree with a plain list of the last 256 draws.
        #[test]
        fn it_counts_what_a_list_counts(draws in proptest::collection::vec(any::<bool>(), 0..1_000)) {
            let mut window = Window::default();
            for (at, collided) in draws.iter().enumerate() {
                window.report(1, usize::from(*collided));
                let recent = draws[..=at].iter().rev().take(WINDOW).filter(|c| **c).count();
                prop_assert_eq!(window.collided as usize, recent);
                prop_assert_eq!(window.crowded(), recent * 10 > WINDOW);
            }
        }
    }
}
