//! Bringing back what is down or frozen, and everything else in its right place.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{DATABASE, Local, Slot};
use crate::postgres::Config;
use crate::wait;

/// How long a PostgreSQL server may take to say what it is.
const LOOK: Duration = Duration::from_secs(5);

impl Local {
    /// Brings back the server of this name, or all: frozen ones go on, dead ones are started
    /// again. A PostgreSQL primary that was replaced meanwhile becomes a standby, standbys follow
    /// the present primary, and PgBouncer is pointed to it; a Redis master that was replaced
    /// becomes a replica. Answers what was done, server and deed.
    ///
    /// # Errors
    /// When there is no such server, or one does not come back; with what it said.
    pub fn heal(
        &mut self,
        name: Option<&str>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Vec<(String, String)>> {
        let only = name.map(|name| self.slot(name)).transpose()?;
        let slots: Vec<Slot> =
            self.slots().into_iter().filter(|slot| only.is_none_or(|only| only == *slot)).collect();
        let mut done = Vec::new();
        // PostgreSQL's have to agree on a primary first.
        let (copies, others): (Vec<Slot>, Vec<Slot>) =
            slots.into_iter().partition(|slot| matches!(slot, Slot::Postgres(_)));
        let mut healed = self.heal_postgres(&copies, &mut done, progress);
        if healed.is_ok() {
            healed = others
                .into_iter()
                .try_for_each(|slot| self.revive(slot, &mut done, progress).map(|_| ()));
        }
        if healed.is_ok() {
            healed = self.settle(only, &mut done, progress);
        }
        self.write_pids()?;
        healed.map(|()| done)
    }

    /// Brings one server back if it is down or frozen, and answers whether it was.
    fn revive(
        &mut self,
        slot: Slot,
        done: &mut Vec<(String, String)>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<bool> {
        let name = self.name(slot);
        let deed = match self.process(slot)? {
            None => {
                progress(&name);
                self.server(slot)?.restart().with_context(|| format!("start {name}"))?;
                "started"
            }
            Some((_, true)) => {
                self.server(slot)?.thaw()?;
                "thawed"
            }
            Some(_) => return Ok(false),
        };
        done.push((name, deed.to_owned()));
        Ok(true)
    }

    fn heal_postgres(
        &mut self,
        slots: &[Slot],
        done: &mut Vec<(String, String)>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let numbers: Vec<usize> = slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Postgres(number) => Some(*number),
                _ => None,
            })
            .collect();
        // Frozen ones first: one of them may be the primary.
        for &number in &numbers {
            if self.process(Slot::Postgres(number))?.is_some() {
                self.revive(Slot::Postgres(number), done, progress)?;
            }
        }
        let primary = match self.primary() {
            Ok(primary) => primary,
            Err(_) if numbers.is_empty() => return Ok(()),
            Err(_) => {
                let primary = self.primary_by_history();
                if !numbers.contains(&primary) {
                    bail!("there is no primary to follow: heal pg-{} too", primary + 1);
                }
                self.revive(Slot::Postgres(primary), done, progress)?;
                primary
            }
        };
        for number in numbers.into_iter().filter(|number| *number != primary) {
            let name = self.name(Slot::Postgres(number));
            let down = self.process(Slot::Postgres(number))?.is_none();
            let port = self.postgres.get(primary).map(|server| server.config().port);
            let server = self.postgres.get(number).context("no such server")?;
            let follows = server.history().follows == Some(port);
            if !down && follows && server.wait_streaming(LOOK).is_ok() {
                continue;
            }
            progress(&name);
            self.rejoin(number, primary).with_context(|| format!("bring back {name}"))?;
            let deed = if down && follows {
                "started".to_owned()
            } else {
                format!("made a standby of pg-{}", primary + 1)
            };
            done.push((name, deed));
        }
        Ok(())
    }

    /// What follows from the present roles.
    fn settle(
        &mut self,
        only: Option<Slot>,
        done: &mut Vec<(String, String)>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let concerns = |is: fn(Slot) -> bool| only.is_none_or(is);
        if concerns(|slot| matches!(slot, Slot::Postgres(_) | Slot::PgBouncer)) {
            self.settle_pgbouncer(done)?;
        }
        if concerns(|slot| matches!(slot, Slot::Shunt(_) | Slot::Haproxy)) {
            self.wait_served()?;
        }
        if concerns(|slot| matches!(slot, Slot::Redis(_)))
            && let Some(redis) = &mut self.redis
        {
            progress("Redis Cluster: the nodes agree");
            redis.wait_settled()?;
        }
        Ok(())
    }

    /// Points PgBouncer, if it is awake, to the primary, if there is one, and waits until it gets
    /// there.
    fn settle_pgbouncer(&mut self, done: &mut Vec<(String, String)>) -> Result<()> {
        let Ok(primary) = self.primary() else { return Ok(()) };
        if self.pgbouncer.is_none() || !awake(self.process(Slot::PgBouncer)?) {
            return Ok(());
        }
        let config = self.postgres.get(primary).context("no primary")?.config().clone();
        let Some(pgbouncer) = &mut self.pgbouncer else { return Ok(()) };
        if pgbouncer.target(DATABASE) != Some(&config) {
            pgbouncer.point(DATABASE, &config)?;
            done.push(("pgbouncer".to_owned(), format!("pointed to pg-{}", primary + 1)));
        }
        wait::until(wait::PATIENCE, "PgBouncer to reach the primary", || {
            writable(pgbouncer.config(), DATABASE).then_some(())
        })
    }

    /// Waits until HAProxy, if it is awake, uses the nodes that are.
    fn wait_served(&mut self) -> Result<()> {
        if self.haproxy.is_none() || !awake(self.process(Slot::Haproxy)?) {
            return Ok(());
        }
        for number in 0..self.nodes.len() {
            if awake(self.process(Slot::Shunt(number))?)
                && let Some(haproxy) = &self.haproxy
            {
                haproxy.wait_up(number, true)?;
            }
        }
        Ok(())
    }

    /// The number of the server that takes writes: of several the one that was promoted last.
    ///
    /// # Errors
    /// When none does.
    pub(super) fn primary(&mut self) -> Result<usize> {
        let mut found: Option<(u32, usize)> = None;
        for number in 0..self.postgres.len() {
            if !awake(self.process(Slot::Postgres(number))?) {
                continue;
            }
            let Some(server) = self.postgres.get(number) else { continue };
            let timeline = server.history().timeline;
            if writable(server.config(), "postgres")
                && found.is_none_or(|(best, _)| timeline > best)
            {
                found = Some((timeline, number));
            }
        }
        found.map(|(_, number)| number).context("no PostgreSQL server takes writes")
    }
}

/// Whether a process runs and is not frozen.
fn awake(process: Option<(u32, bool)>) -> bool {
    matches!(process, Some((_, false)))
}

fn writable(server: &Config, database: &str) -> bool {
    let answer = server.psql_within(LOOK, database, "SELECT pg_is_in_recovery()");
    answer.is_ok_and(|standby| standby == "f")
}
