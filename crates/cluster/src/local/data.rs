//! The servers that hold data: how they start on an empty directory and on a full one.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{DATABASE, Local, Slot, Store};
use crate::postgres::Setup;
use crate::{PgBouncer, Postgres, Redis, citus};

/// The primary and its standbys.
const COPIES: usize = 3;

/// How many shards there are, or nodes of a Citus.
const SHARDS: usize = 3;

/// How long a standby may take to stream again before it is copied anew.
const RECONNECT: Duration = Duration::from_secs(10);

/// What all PostgreSQL servers here have in common.
fn modest(setup: Setup) -> Setup {
    // A standby that stays away for long is copied anew rather than filling the disk.
    setup.setting("max_slot_wal_keep_size", "1GB")
}

impl Local {
    pub(super) fn start_data(
        &mut self,
        shards: bool,
        redis: bool,
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        for number in 1..=COPIES {
            let setup = modest(Postgres::setup()).name(&format!("pg_{number}"));
            self.postgres.push(setup.at(self.path(&format!("pg-{number}"))).reserve()?);
        }
        if shards {
            self.reserve_shards()?;
        }
        let primary = self.primary_by_history();
        let fresh: Vec<&Postgres> =
            self.postgres.get(primary).into_iter().chain(&self.shards).collect();
        // To make a cluster takes a second of a core each, to join a Redis Cluster one of waiting.
        self.redis = thread::scope(|scope| {
            let made: Vec<_> = fresh.iter().map(|pg| scope.spawn(|| pg.make())).collect();
            let cluster = if redis {
                progress("Redis Cluster: six nodes");
                Some(Redis::setup().at(self.place.path().join("redis")).start_cluster())
            } else {
                None
            };
            progress("PostgreSQL: data directories");
            for made in made {
                made.join().map_err(|_| anyhow!("a thread panicked"))??;
            }
            cluster.transpose()
        })?;
        self.start_postgres(primary, progress)?;
        if shards {
            self.start_shards(progress)?;
        }
        Ok(())
    }

    /// Shards stay what they were made as; new ones are a Citus where there is one.
    fn reserve_shards(&mut self) -> Result<()> {
        let asked = self.store == Store::Shards;
        self.citus = !asked && !self.path("shard-1").exists() && citus::installed()?;
        for number in 0..SHARDS {
            let name = self.name(Slot::Shard(number));
            let setup = if self.citus { citus::node() } else { Postgres::setup() };
            let setup = modest(setup).name(&name.replace('-', "_"));
            self.shards.push(setup.at(self.path(&name)).reserve()?);
        }
        Ok(())
    }

    fn start_postgres(&mut self, primary: usize, progress: &mut dyn FnMut(&str)) -> Result<()> {
        progress(&format!("pg-{}: the primary", primary + 1));
        let server = self.postgres.get_mut(primary).context("no primary")?;
        server.restart()?;
        make_database(server)?;
        for number in (0..COPIES).filter(|number| *number != primary) {
            progress(&format!("pg-{}: a standby", number + 1));
            self.rejoin(number, primary)?;
        }
        Ok(())
    }

    fn start_shards(&mut self, progress: &mut dyn FnMut(&str)) -> Result<()> {
        for number in 0..self.shards.len() {
            progress(&self.name(Slot::Shard(number)));
            let server = self.shards.get_mut(number).context("no shard")?;
            server.restart()?;
            make_database(server)?;
        }
        if self.citus {
            progress("Citus: the workers join");
            let (coordinator, workers) = self.shards.split_first().context("no coordinator")?;
            citus::join(coordinator, workers, DATABASE)?;
        }
        Ok(())
    }

    /// Of those whose data are no standby's, the one that was promoted last; the first one of an
    /// empty directory.
    pub(super) fn primary_by_history(&self) -> usize {
        let histories = self.postgres.iter().map(Postgres::history).enumerate();
        let primaries = histories.filter(|(_, history)| history.born && history.follows.is_none());
        // The first of equals.
        let last = primaries
            .max_by_key(|(number, history)| (history.timeline, std::cmp::Reverse(*number)));
        last.map_or(0, |(number, _)| number)
    }

    /// Brings a server back as a standby of `primary`: on its own data if it was one, else (and if
    /// these are too old or have gone another way) on a fresh copy.
    pub(super) fn rejoin(&mut self, number: usize, primary: usize) -> Result<()> {
        let pair = self.postgres.get_disjoint_mut([number, primary]);
        let [server, primary] = pair.map_err(|_| anyhow!("a server can't follow itself"))?;
        if server.history().follows == Some(Some(primary.config().port)) {
            let back = server.restart().and_then(|()| server.wait_streaming(RECONNECT));
            if back.is_ok() {
                return Ok(());
            }
        }
        server.follow(primary)
    }

    /// PgBouncer: `shunt` is the primary; `shard1`…`shard3` or `citus` are the shards.
    pub(super) fn start_pgbouncer(&mut self) -> Result<()> {
        let primary = self.primary()?;
        let primary = self.postgres.get(primary).context("no primary")?;
        let mut setup =
            PgBouncer::setup().at(self.path("pgbouncer")).database(DATABASE, primary.config());
        for (number, shard) in self.shards.iter().enumerate() {
            let name = if self.citus { "citus".to_owned() } else { format!("shard{}", number + 1) };
            setup = setup.alias(&name, shard.config(), DATABASE);
            if self.citus {
                // Clients of a Citus talk to its coordinator.
                break;
            }
        }
        self.pgbouncer = Some(setup.start()?);
        Ok(())
    }
}

fn make_database(server: &Postgres) -> Result<()> {
    let sql = format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'");
    if server.psql(&sql)?.is_empty() {
        server.create_database(DATABASE)?;
    }
    Ok(())
}
