//! The search for the highest open-loop rate at which p99 holds a bound.
//!
//! Doubling finds a rate that fails, bisection on a logarithmic scale closes in. Each round is a
//! run of its own with fresh connections; between rounds nothing is carried over, so that a server
//! that fell behind in a failed round has the next round's warm-up to recover.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::Args;
use super::plan::{Pace, Plan};
use super::report::{self, Report, time};
use super::run::round;

/// Most rounds of one search; 2,000,000 is eleven doublings above 1,000, and ten halvings of an
/// interval of one doubling come below a thousandth.
const MAX_ROUNDS: usize = 32;
/// Share of requests that may fail in a round that holds.
const MAX_FAILED: f64 = 0.001;
/// Share of the asked rate that must have been answered in a round that holds.
const MIN_ACHIEVED: f64 = 0.97;

/// The JSON report of a search.
#[derive(Debug, Serialize)]
struct Found<'a> {
    format: u32,
    /// The bound on p99, in microseconds.
    p99_bound: f64,
    /// Highest rate that held, in requests a second; absent when none did.
    rate: Option<f64>,
    /// The generator and not the server was the limit.
    generator_limited: bool,
    rounds: &'a [Round],
}

/// One round and its verdict.
#[derive(Debug, Serialize)]
struct Round {
    holds: bool,
    report: Report,
}

/// Searches, prints each round as it ends, writes the JSON report.
pub(super) fn run(args: &Args, plan: &Plan) -> anyhow::Result<()> {
    if args.min_rate >= args.max_rate {
        bail!("--min-rate {} is not below --max-rate {}", args.min_rate, args.max_rate);
    }
    let bound = args.p99.as_secs_f64() * 1e6;
    let mut rounds: Vec<Round> = Vec::new();
    let mut measure = |rate: f64| -> anyhow::Result<bool> {
        let plan = Plan {
            pace: Pace::Open(rate),
            duration: args.round,
            warmup: args.warmup.min(args.round),
            // A wait that is far beyond the bound proves nothing more by being longer, and it
            // would lengthen every round that fails.
            timeout: plan.timeout.min((args.p99 * 20).max(Duration::from_millis(500))),
            ..plan.clone()
        };
        let report = round(args, &plan, false)?;
        if report.interrupted {
            bail!("interrupted; no rate found");
        }
        let holds = holds(&report, bound);
        println!(
            "{:>10.0}/s  answered {:>9.0}/s  p50 {:>9}  p99 {:>9}  failed {:.2} %  generator {:>3.0} %  {}",
            rate,
            report.per_second,
            time(report.latency.p50),
            time(report.latency.p99),
            100.0 * report.failed_share(),
            100.0 * report.generator_busy,
            if holds { "holds" } else { "fails" },
        );
        rounds.push(Round { holds, report });
        Ok(holds)
    };
    let best = search(args.min_rate, args.max_rate, args.precision, &mut measure)?;

    // The rate just above the best failed; if the generator was out of time then, the bound is
    // the generator's.
    let generator_limited = rounds
        .iter()
        .filter(|round| !round.holds)
        .min_by(|a, b| a.report.rate.unwrap_or(0.0).total_cmp(&b.report.rate.unwrap_or(0.0)))
        .is_some_and(|round| round.report.generator_busy > 0.95);
    let mut summary = match best {
        Some(rate) => format!("highest rate with p99 within {}: {rate:.0}/s\n", time(bound)),
        None => format!("p99 was above {} at {:.0}/s already\n", time(bound), args.min_rate),
    };
    if generator_limited {
        summary.push_str("the generator was the limit; give it more --threads or its own core\n");
    }
    let found =
        Found { format: 1, p99_bound: bound, rate: best, generator_limited, rounds: &rounds };
    report::publish(args.json.as_deref(), &found, &summary)?;
    best.map(|_| ()).context("no rate held the bound; begin lower with --min-rate")
}

/// Whether a round counts as holding the bound.
fn holds(report: &Report, bound: f64) -> bool {
    report.latency.p99 <= bound
        && report.failed_share() <= MAX_FAILED
        && report.rate.is_none_or(|rate| report.per_second >= MIN_ACHIEVED * rate)
}

/// Highest rate for which `measure` says yes, to within `precision`; `None` when not even `min`
/// holds. A round that fails is measured a second time before it is believed, because one pause
/// of the machine must not halve the answer.
fn search(
    min: f64,
    max: f64,
    precision: f64,
    measure: &mut impl FnMut(f64) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<f64>> {
    let mut left = MAX_ROUNDS;
    let mut twice = |rate: f64| -> anyhow::Result<bool> {
        left = left.saturating_sub(1);
        Ok(measure(rate)? || (left > 0 && measure(rate)?))
    };
    let mut low = min;
    if !twice(low)? {
        return Ok(None);
    }
    let mut high = low;
    let mut rounds = 1;
    loop {
        if low >= max {
            return Ok(Some(low));
        }
        high = (high * 2.0).min(max);
        rounds += 1;
        if !twice(high)? {
            break;
        }
        low = high;
    }
    while high / low > 1.0 + precision && rounds < MAX_ROUNDS {
        let middle = (low * high).sqrt();
        rounds += 1;
        if twice(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(min: f64, max: f64, limit: f64) -> (Option<f64>, usize) {
        let mut asked = 0;
        let best = search(min, max, 0.02, &mut |rate| {
            asked += 1;
            Ok(rate <= limit)
        });
        (best.unwrap(), asked)
    }

    #[test]
    fn the_search_closes_in_on_the_limit() {
        for limit in [1_000.0, 1_010.0, 47_123.0, 99_999.0, 1_999_999.0] {
            let (best, asked) = found(1_000.0, 2_000_000.0, limit);
            let best = best.unwrap();
            assert!(best <= limit && best >= limit / 1.02, "{best} for {limit}");
            assert!(asked <= 2 * MAX_ROUNDS, "{asked} rounds");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_answers_too() {
        assert_eq!(found(1_000.0, 8_000.0, 999.0).0, None);
        assert_eq!(found(1_000.0, 8_000.0, 1e9).0, Some(8_000.0));
    }

    #[test]
    fn one_bad_round_is_not_believed() {
        let mut asked = 0;
        let best = search(1_000.0, 64_000.0, 0.02, &mut |rate| {
            asked += 1;
            Ok(asked != 3 && rate <= 50_000.0)
        });
        assert!(best.unwrap().unwrap() > 49_000.0);
    }
}
