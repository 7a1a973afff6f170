//! Hot redirects against nginx's static map and against the floor.

use anyhow::{Context, ensure};

use super::{Bench, CONNECTIONS, Figures, HOT_LINKS, WARMUP};
use crate::load::Load;
use crate::process::pause;
use crate::results::{Outcome, amount, median};
use crate::servers::{self, Server};

/// Settings of a run whose clicks all go to the spool and stay there.
const PAUSED: [&str; 2] = ["clicks.worker=false", "clicks.spool_bytes=16GiB"];
const WORKING: [&str; 2] = ["clicks.worker=true", "clicks.spool_bytes=16GiB"];

/// The contenders, in the order of a round.
const NAMES: [&str; 4] = ["nginx", "floor", PAUSED_NAME, WORKING_NAME];
const PAUSED_NAME: &str = "shunt, worker paused";
const WORKING_NAME: &str = "shunt, worker running";

/// Figures of one contender over all rounds.
#[derive(Debug, Default, serde::Serialize)]
struct Rounds {
    closed: Vec<Figures>,
    open: Vec<Figures>,
}

impl Rounds {
    fn closed(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        median(&self.closed.iter().map(of).collect::<Vec<_>>())
    }

    fn open(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        median(&self.open.iter().map(of).collect::<Vec<_>>())
    }
}

/// nginx's CPU per redirect on the hot set: the yardstick of the cold scenario too.
///
/// # Errors
/// nginx can't be started or answers wrongly.
pub fn nginx_hot(bench: &Bench) -> anyhow::Result<f64> {
    let keys = bench.cache.keys(HOT_LINKS)?;
    let load = Load::closed(CONNECTIONS).keys(&keys).time(bench.round, WARMUP);
    let mut cpu = Vec::new();
    for _ in 0..bench.rounds {
        let server = start_nginx(bench)?;
        cpu.push(bench.measure(&server, &load, false)?.cpu);
    }
    Ok(median(&cpu))
}

fn start_nginx(bench: &Bench) -> anyhow::Result<Server> {
    let map = bench.cache.nginx_map(HOT_LINKS)?;
    let server =
        servers::nginx(&bench.scratch.join("nginx"), bench.pinning.server, &map, HOT_LINKS)?;
    server.check(HOT_LINKS)?;
    Ok(server)
}

/// Measures and judges.
///
/// # Errors
/// A server can't be started, answers wrongly, or loses a click.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(
        "hot",
        "Hot redirects",
        "100,000 links, keys uniform over all of them, every Location checked, 64 connections, \
         closed loop; p99 also open loop at 30 % of nginx's rate. One server at a time is asked, \
         in turns of a quarter of a round, so that a noisy machine is noisy to all of them. The \
         servers on one core, the load on another; medians of the rounds. CPU is that of the whole process, the spool's \
         writer and the worker included; shunt writes every click to the fsynced spool and keeps \
         its metrics.",
    );
    let data = bench.seeded(HOT_LINKS)?;
    let keys = bench.cache.keys(HOT_LINKS)?;
    let checked = |load: Load| load.keys(&keys);
    // The floor answers the same bytes to everyone: the keys are asked for, not checked.
    let unchecked = |load: Load| load.with("--keys", keys.display().to_string());

    // What a real answer looks like, for the floor to repeat.
    let server = bench.shunt.serve(&data, bench.pinning.server, &PAUSED)?;
    let answer = server.check(HOT_LINKS)?;
    server.process.stop(super::STOP)?;

    let mut rounds: [Rounds; 4] = Default::default();
    let mut clicks = Vec::new();
    let mut open_rate = 0.0;
    for round in 1..=bench.rounds {
        let floor_dir = bench.scratch.join("floor");
        let servers = [
            start_nginx(bench)?,
            servers::floor(&bench.floor, &floor_dir, bench.pinning.server, &answer)?,
            start_shunt(bench, "paused", &PAUSED)?,
            start_shunt(bench, "working", &WORKING)?,
        ];
        let loads = |load: &Load| -> Vec<(&Server, Load)> {
            let with = |(index, server): (usize, _)| {
                (server, if index == 1 { unchecked(load.clone()) } else { checked(load.clone()) })
            };
            servers.iter().enumerate().map(with).collect()
        };
        let closed = bench.in_turns(&loads(&Load::closed(CONNECTIONS)), false, settled)?;
        if let (Some(nginx), 0.0) = (closed.first(), open_rate) {
            open_rate = 0.3 * nginx.per_second;
        }
        let open = bench.in_turns(&loads(&Load::open(open_rate, CONNECTIONS)), true, settled)?;
        for (index, (closed, open)) in closed.into_iter().zip(open).enumerate() {
            let name = NAMES.get(index).copied().unwrap_or_default();
            eprintln!(
                "round {round}  {name:<22} {:>8.0}/s  {:.2} µs CPU  p99 {:.0} µs, paced {:.0} µs  generator {:.0} %",
                closed.per_second,
                closed.cpu,
                closed.p99,
                open.p99,
                100.0 * closed.generator_busy
            );
            if let Some(rounds) = rounds.get_mut(index) {
                rounds.closed.push(closed);
                rounds.open.push(open);
            }
        }
        for (name, server) in NAMES.iter().zip(&servers) {
            if server.ops.is_some() {
                clicks.push(balance(name, server)?);
            }
        }
    }
    report(&mut outcome, &rounds, open_rate, &clicks);
    outcome.raw = serde_json::json!({ "contenders": NAMES, "rounds": rounds, "clicks": clicks });
    Ok(outcome)
}

/// A server of shunt on a copy of the seeded directory: two run at the same time.
fn start_shunt(bench: &Bench, name: &str, settings: &[&str]) -> anyhow::Result<Server> {
    let seeded = bench.seeded(HOT_LINKS)?;
    let data = bench.fresh(name)?;
    std::fs::copy(seeded.join("links.db"), data.join("links.db"))
        .with_context(|| format!("copy {}", seeded.display()))?;
    let server = bench.shunt.serve(&data, bench.pinning.server, settings)?;
    bench.warm(&server, HOT_LINKS)?;
    server.check(HOT_LINKS)?;
    Ok(server)
}

/// Waits until every click of contender `index` is where it will stay: in the spool, or counted
/// by the worker. Those that are not shunt have none.
fn settled(index: usize, server: &Server) -> anyhow::Result<()> {
    let goal = match NAMES.get(index) {
        Some(&PAUSED_NAME) => "shunt_clicks_spooled_total",
        Some(&WORKING_NAME) => "shunt_clicks_counted_total",
        _ => return Ok(()),
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let numbered = server.metric("shunt_clicks_numbered_total", "")?.unwrap_or_default();
        if server.metric(goal, "")?.unwrap_or_default() >= numbered {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "{goal} stays below {numbered}");
        pause(std::time::Duration::from_millis(5));
    }
}

/// The click ledger of one server after its load.
#[derive(Debug, serde::Serialize)]
struct Clicks {
    contender: String,
    served: f64,
    numbered: f64,
    spooled: f64,
    counted: f64,
    lost: f64,
    fsyncs: f64,
}

/// Reads the ledger once nothing is on its way any more: served = numbered = spooled, none lost.
fn balance(name: &str, server: &Server) -> anyhow::Result<Clicks> {
    let get = |metric: &str, labels: &str| -> anyhow::Result<f64> {
        server
            .metric(metric, labels)?
            .with_context(|| format!("/metrics does not show {metric}{{{labels}}}"))
    };
    let read = || -> anyhow::Result<Clicks> {
        Ok(Clicks {
            contender: name.to_owned(),
            served: get("shunt_links_answered_total", "answer=\"redirect")?,
            numbered: get("shunt_clicks_numbered_total", "")?,
            spooled: get("shunt_clicks_spooled_total", "")?,
            counted: get("shunt_clicks_counted_total", "")?,
            lost: get("shunt_clicks_lost_total", "")?,
            fsyncs: get("shunt_click_spool_fsyncs_total", "")?,
        })
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let clicks = read()?;
        let settled = clicks.served <= clicks.numbered && clicks.numbered <= clicks.spooled;
        if settled || std::time::Instant::now() > deadline {
            ensure!(
                clicks.served == clicks.numbered && clicks.numbered == clicks.spooled,
                "the ledger of {name} does not balance: {clicks:?}"
            );
            ensure!(clicks.lost == 0.0, "{name} lost clicks: {clicks:?}");
            return Ok(clicks);
        }
        pause(std::time::Duration::from_millis(20));
    }
}

fn report(outcome: &mut Outcome, rounds: &[Rounds; 4], open_rate: f64, clicks: &[Clicks]) {
    outcome.columns = [
        "",
        "requests/s",
        "CPU µs per redirect",
        "p50 µs",
        "p99 µs",
        &format!("p99 µs at {}", amount(open_rate, "/s")),
        "load core busy",
    ]
    .map(str::to_owned)
    .to_vec();
    for (name, figures) in NAMES.iter().zip(rounds) {
        outcome.rows.push(vec![
            (*name).to_owned(),
            amount(figures.closed(|f| f.per_second), ""),
            amount(figures.closed(|f| f.cpu), ""),
            amount(figures.closed(|f| f.p50), ""),
            amount(figures.closed(|f| f.p99), ""),
            amount(figures.open(|f| f.p99), ""),
            format!("{:.0} %", 100.0 * figures.closed(|f| f.generator_busy)),
        ]);
    }
    let [nginx, floor, paused, working] = rounds;
    let cpu = |rounds: &Rounds| rounds.closed(|f| f.cpu);
    let rate = |rounds: &Rounds| rounds.closed(|f| f.per_second);
    outcome.judge("CPU per redirect, of nginx's", cpu(paused) / cpu(nginx), 0.90, true, "×");
    outcome.judge("requests/s, of nginx's", rate(paused) / rate(nginx), 1.10, false, "×");
    let closed = |rounds: &Rounds| rounds.closed(|f| f.p99);
    outcome.judge("p99, of nginx's", closed(paused) / closed(nginx), 1.0, true, "×");
    let open = |rounds: &Rounds| rounds.open(|f| f.p99);
    outcome
        .note("p99 at the same paced rate, of nginx's", &amount(open(paused) / open(nginx), "×"));
    outcome.judge("CPU per redirect, of the floor's", cpu(paused) / cpu(floor), 1.15, true, "×");
    outcome.judge(
        "CPU per redirect with the worker running, of nginx's",
        cpu(working) / cpu(nginx),
        1.50,
        true,
        "×",
    );
    let served: f64 = clicks.iter().map(|clicks| clicks.served).sum();
    outcome.require(
        "every redirect numbered and in the spool, none lost",
        &format!("{} redirects, {} lost", amount(served, ""), 0),
        true,
    );
}
