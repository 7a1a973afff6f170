//! Redirects that the second tier answers.

use anyhow::{bail, ensure};

use super::{
    Bench, CONNECTIONS, HOT_LINKS, NO_L1, NO_WORKER, STOP, WARMUP, hot, reaches, redirects,
    settings,
};
use crate::backing::{Database, Redis};
use crate::load::Load;
use crate::results::{Outcome, amount, median};
use crate::servers;

/// Measures and judges.
///
/// # Errors
/// A server can't be started or answers wrongly, or Redis is not what answers.
pub fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(
        "l2",
        "Redirects out of Redis",
        "100,000 links, all in a Redis Cluster of three masters and three replicas, L1 as small as \
         it can be, PostgreSQL behind it; keys uniform over all of them, every Location checked, 64 \
         connections. Peak rate and CPU in a closed loop, p99 in an open loop at half of that rate, \
         in turns with a bare loop that answers everybody the same. shunt on one core, the load on \
         another, sleeping between requests, Redis wherever there is room; every click on disk, worker paused. CPU in shunt \
         is that of the whole process, the connections to Redis included.",
    );
    let nginx = hot::nginx_hot(bench)?;
    bench.alone.set(false);
    let keys = bench.cache.keys(HOT_LINKS)?;
    let database = Database::postgres(None)?;
    let redis = Redis::start()?;
    let (data, stored) = bench.stored(&database, &bench.cache.csv(HOT_LINKS)?, HOT_LINKS)?;
    let own = [redis.setting(), NO_L1.to_owned()];
    let node = settings(&[&stored, &own, &NO_WORKER.map(str::to_owned)]);
    let (mut cpu, mut peak, mut p99, mut bare_p99) = (vec![], vec![], vec![], vec![]);
    let (mut hits, mut l1, mut in_redis) = (vec![], vec![], vec![]);
    for round in 1..=bench.rounds {
        let server = bench.shunt.serve_on(&data, Some(bench.pinning.server), &node)?;
        reaches(&server, "shunt_l2_open", 1.0)?;
        bench.warm(&server, HOT_LINKS)?;
        let answer = server.check(HOT_LINKS)?;
        let looks = |outcome: &str| server.metric("shunt_l2_looks_total", outcome);
        let hit = || anyhow::Ok(looks("outcome=\"hit\"")?.unwrap_or(0.0));
        let all = || anyhow::Ok(looks("")?.unwrap_or(0.0));

        let before = (hit()?, all()?, redirects(&server)?, redis.cpu()?);
        let closed = Load::closed(CONNECTIONS).keys(&keys).time(bench.round, WARMUP);
        let measured = bench.measure(&server, &closed, false)?;
        let share = (hit()? - before.0) / (all()? - before.1).max(1.0);
        ensure!(share > 0.98, "Redis answered {share:.3} of the looks only; see /metrics");
        let after = redirects(&server)?;
        l1.push((after.0 - before.2.0) / (after.1 - before.2.1).max(1.0));
        hits.push(share);
        let used = redis.cpu()?.saturating_sub(before.3);
        in_redis.push(used.as_secs_f64() * 1e6 / measured.answered.max(1) as f64);

        let bare = servers::floor(
            &bench.floor,
            &bench.scratch.join("floor"),
            bench.pinning.server,
            &answer,
        )?;
        let open = Load::open_sleeping(measured.per_second / 2.0, CONNECTIONS);
        let unchecked = open.clone().with("--keys", keys.display().to_string());
        let contenders = [(&server, open.keys(&keys)), (&bare, unchecked)];
        let paced = bench.in_turns(&contenders, true, |_, _| Ok(()))?;
        let [paced, bare_paced] = &*paced else { bail!("two servers, two figures") };
        eprintln!(
            "round {round}  {:.0}/s  {:.2} µs CPU  p99 at half {:.0} µs, bare loop {:.0} µs  Redis hits {:.2} %",
            measured.per_second,
            measured.cpu,
            paced.p99,
            bare_paced.p99,
            100.0 * share
        );
        cpu.push(measured.cpu);
        peak.push(measured.per_second);
        p99.push(paced.p99);
        bare_p99.push(bare_paced.p99);
        server.process.stop(STOP)?;
    }
    outcome.columns = [
        "",
        "requests/s",
        "CPU µs per redirect",
        "in Redis, all nodes",
        "p99 µs at half",
        "answered by L1",
        "looks answered by Redis",
    ]
    .map(str::to_owned)
    .into();
    outcome.rows.push(vec![
        "shunt, out of Redis".to_owned(),
        amount(median(&peak), ""),
        amount(median(&cpu), ""),
        amount(median(&in_redis), ""),
        amount(median(&p99), ""),
        format!("{:.1} %", 100.0 * median(&l1)),
        format!("{:.1} %", 100.0 * median(&hits)),
    ]);
    let mut row = vec!["nginx, hot".to_owned(), String::new(), amount(nginx, "")];
    row.resize(outcome.columns.len(), String::new());
    outcome.rows.push(row);
    outcome.judge(
        "CPU in shunt per redirect, of nginx's hot",
        median(&cpu) / nginx,
        2.0,
        true,
        "×",
    );
    outcome.judge("p99 at half of the peak rate", median(&p99) / 1e3, 5.0, true, "ms");
    outcome.note("the bare loop's in the same turns", &amount(median(&bare_p99) / 1e3, "ms"));
    outcome.raw = serde_json::json!({
        "cpu": cpu, "peak": peak, "p99": p99, "floor_p99": bare_p99, "nginx_cpu": nginx,
        "redis_cpu": in_redis, "l1_share": l1, "l2_share": hits
    });
    Ok(outcome)
}
