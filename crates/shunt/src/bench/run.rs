//! One run: starts the threads, shows progress, adds up what they counted.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::Args;
use super::plan::Plan;
use super::report::{self, Point, Report, time};
use super::tally::{Live, Tally};
use super::worker::Worker;

/// Runs the plan once, prints and writes its report.
pub(super) fn run(args: &Args, plan: &Plan) -> anyhow::Result<()> {
    let report = round(args, plan, !args.quiet)?;
    report::publish(args.json.as_deref(), &report, &report.summary())?;
    if report.good == 0 {
        bail!(
            "not one good answer from {}; is the server running, do its links have these keys?",
            args.url
        );
    }
    if (args.once || args.expect_location) && report.failed > 0 {
        bail!("{} of {} keys failed", report.failed, report.good + report.failed);
    }
    Ok(())
}

/// Runs the plan once and returns what it found.
pub(super) fn round(args: &Args, plan: &Plan, progress: bool) -> anyhow::Result<Report> {
    let live = Arc::new(Live::default());
    let base = Instant::now();
    let (ended, endings) = tokio::sync::mpsc::unbounded_channel();
    let mut threads = Vec::new();
    for thread in 0..plan.threads {
        let (plan, live, ended) = (plan.clone(), Arc::clone(&live), ended.clone());
        let handle = std::thread::Builder::new()
            .name(format!("bench-{thread}"))
            .spawn(move || {
                let tally = Worker::new(&plan, &live, thread, base).and_then(Worker::run);
                if tally.is_err() {
                    // The others would go on to the end of a run that is of no use.
                    live.stop.store(true, Ordering::Relaxed);
                }
                // The receiver is gone only when the run has been given up.
                let _ = ended.send(());
                tally
            })
            .context("start a load thread")?;
        threads.push(handle);
    }
    drop(ended);

    let bar = if progress && std::io::stderr().is_terminal() {
        bar(plan)?
    } else {
        ProgressBar::hidden()
    };
    let (mut series, interrupted) = watch(plan, &live, &bar, base, endings)?;
    bar.finish_and_clear();

    let mut sum = Tally::new();
    for thread in threads {
        let tally = thread
            .join()
            .map_err(|_| anyhow::anyhow!("a load thread panicked; this is a bug in shunt bench"))?
            .context("a load thread failed; raise `ulimit -n` if it ran out of descriptors")?;
        sum.add(tally);
    }
    if let Some(acks) = &plan.acks {
        acks.finish().context("put the recorded acknowledgements on disk")?;
    }
    series.extend(live.take(u64::MAX).iter().map(|(second, share)| Point::of(*second, share)));
    Ok(Report::new(&args.url, plan, sum, series, interrupted))
}

fn bar(plan: &Plan) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:20} {msg}")
        .context("the progress line's template")?;
    let length = if plan.once { plan.keys.len() } else { (plan.warmup + plan.duration).as_secs() };
    Ok(ProgressBar::new(length).with_style(style))
}

/// Collects the figures of each second and shows them until every thread has ended. Ctrl-C ends
/// the run early; its report is still written.
fn watch(
    plan: &Plan,
    live: &Live,
    bar: &ProgressBar,
    base: Instant,
    mut endings: tokio::sync::mpsc::UnboundedReceiver<()>,
) -> anyhow::Result<(Vec<Point>, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the progress clock")?;
    runtime.block_on(async {
        let mut series = Vec::new();
        let mut interrupted = false;
        let mut answered = 0;
        let mut failed = 0;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                ending = endings.recv() => if ending.is_none() {
                    return Ok((series, interrupted));
                },
                signal = tokio::signal::ctrl_c() => {
                    signal.context("listen for Ctrl-C")?;
                    if interrupted {
                        bail!("interrupted twice; no report");
                    }
                    interrupted = true;
                    live.stop.store(true, Ordering::Relaxed);
                },
                _ = tick.tick() => {
                    // A second is published within the next one; the one before that is whole.
                    let whole = base.elapsed().as_secs().saturating_sub(1);
                    for (second, share) in live.take(whole) {
                        let point = Point::of(second, &share);
                        answered += point.answered;
                        failed += point.failed;
                        bar.set_position(if plan.once { answered } else { second + 1 });
                        bar.set_message(format!(
                            "{}/s  p50 {}  p99 {}  failed {failed}{}",
                            point.good,
                            time(point.p50),
                            time(point.p99),
                            if Duration::from_secs(second) < plan.warmup { "  (warm-up)" } else { "" },
                        ));
                        series.push(point);
                    }
                },
            }
        }
    })
}
