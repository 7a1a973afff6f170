//! Random numbers for choosing keys: a small seeded generator, uniform and Zipf sampling.
//!
//! Nothing here is cryptographic. The same seed gives the same sequence, so that a run can be
//! repeated.

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and three multiplications a number, passes
/// BigCrush, and any seed is a good seed.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0. The bias is below `bound` / 2^64.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// Samples ranks `0..n` with probability proportional to `1 / (rank + 1)^s`.
///
/// Rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from
/// monotone discrete distributions", 1996): constant time and memory for any `n`, under 1.2 draws
/// a sample for the exponents that occur in web traffic.
#[derive(Debug, Clone)]
pub(super) struct Zipf {
    n: f64,
    s: f64,
    area_first: f64,
    area_last: f64,
    shortcut: f64,
}

impl Zipf {
    /// `n` is at least 1, `s` is finite and above 0; the caller has checked both.
    pub(super) fn new(n: u64, s: f64) -> Self {
        let mut zipf =
            Self { n: n.max(1) as f64, s, area_first: 0.0, area_last: 0.0, shortcut: 0.0 };
        zipf.area_first = zipf.area(1.5) - 1.0;
        zipf.area_last = zipf.area(zipf.n + 0.5);
        zipf.shortcut = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.density(2.0));
        zipf
    }

    pub(super) fn sample(&self, rng: &mut Rng) -> u64 {
        loop {
            let u = self.area_last + rng.unit() * (self.area_first - self.area_last);
            let x = self.area_inverse(u);
            let k = x.round().clamp(1.0, self.n);
            if k - x <= self.shortcut || u >= self.area(k + 0.5) - self.density(k) {
                return k as u64 - 1;
            }
        }
    }

    /// Integral of the density; the case `s = 1` is the limit and needs no branch of its own.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        exp_m1_over((1.0 - self.s) * log) * log
    }

    fn density(&self, x: f64) -> f64 {
        (-self.s * x.ln()).exp()
    }

    fn area_inverse(&self, area: f64) -> f64 {
        // Rounding can carry the product just below -1, where the logarithm ends.
        let t = (area * (1.0 - self.s)).max(-1.0);
        (ln_1p_over(t) * area).exp()
    }
}

/// `(e^x - 1) / x`, continued over 0.
fn exp_m1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 * (1.0 + x / 3.0) }
}

/// `ln(1 + x) / x`, continued over 0.
fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x / 3.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exact probabilities against the sampled share of every rank, for the exponents on both
    /// sides of 1 and 1 itself.
    #[test]
    fn zipf_follows_its_law() {
        for (n, s) in [(10_u64, 0.5), (10, 1.0), (10, 1.1), (1_000, 1.1), (50, 2.0)] {
            let zipf = Zipf::new(n, s);
            let mut rng = Rng::new(7);
            let draws = 400_000_usize;
            let mut seen = vec![0_u64; n as usize];
            for _ in 0..draws {
                seen[zipf.sample(&mut rng) as usize] += 1;
            }
            let total: f64 = (1..=n).map(|k| (k as f64).powf(-s)).sum();
            // Compare the ranks that get enough draws for five standard deviations to mean
            // something.
            for (rank, count) in seen.iter().enumerate().take(10) {
                let p = ((rank + 1) as f64).powf(-s) / total;
                let expected = p * draws as f64;
                let deviation = (expected * (1.0 - p)).sqrt();
                assert!(
                    (*count as f64 - expected).abs() < 5.0 * deviation,
                    "n={n} s={s} rank={rank}: {count} draws, {expected:.0} expected"
                );
            }
        }
    }

    #[test]
    fn a_single_key_is_always_rank_zero() {
        let zipf = Zipf::new(1, 1.1);
        let mut rng = Rng::new(1);
        assert!((0..1_000).all(|_| zipf.sample(&mut rng) == 0));
    }

    #[test]
    fn uniform_numbers_stay_below_the_bound_and_reach_all_of_it() {
        let mut rng = Rng::new(3);
        let mut seen = [0_u32; 7];
        for _ in 0..70_000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (9_500..10_500).contains(count)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&rng.unit())));
    }

    #[test]
    fn the_same_seed_repeats_the_sequence() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..16).map(|_| rng.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(42), draw(42));
        assert_ne!(draw(42), draw(43));
    }
}
