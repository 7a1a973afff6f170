//! The shunt nodes and HAProxy in front of them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{API_KEY, DATABASE, Local, Store, kept};
use crate::{Haproxy, Shunt};

/// How many nodes there are.
const NODES: usize = 2;

/// How long a command of the CLI may take.
const COMMAND: Duration = Duration::from_secs(60);

impl Local {
    pub(super) fn start_nodes(
        &mut self,
        binary: &Path,
        haproxy: bool,
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut nodes = Vec::new();
        for number in 1..=NODES {
            nodes.push(Shunt::at(&self.path(&format!("shunt-{number}")), binary)?);
        }
        let sockets: Vec<SocketAddr> = nodes.iter().map(Shunt::socket).collect();
        if haproxy {
            progress("HAProxy");
            self.haproxy = Some(Haproxy::start_at(&self.path("haproxy"), &sockets)?);
        }
        for (number, node) in nodes.into_iter().enumerate() {
            progress(&format!("shunt-{}", number + 1));
            let mut node = self.configured(node)?;
            if number == 0 {
                let config = node.files().join("shunt.toml");
                let words = ["migrate".as_ref(), "--config".as_ref(), config.as_os_str()];
                node.cli(words, COMMAND)?.ok().context("make the tables of the links")?;
            }
            node.start()?;
            self.nodes.push(node);
        }
        self.api_key = kept(&self.path(API_KEY), || self.make_api_key())?;
        if let Some(haproxy) = &self.haproxy {
            progress("HAProxy finds the nodes");
            (0..NODES).try_for_each(|node| haproxy.wait_up(node, true))?;
        }
        Ok(())
    }

    /// Its settings, for people to look at too.
    fn configured(&mut self, node: Shunt) -> Result<Shunt> {
        let mut text = "# Written by `shunt dev up` at each start.\n".to_owned();
        if self.haproxy.is_some() {
            text += &format!("base_url = \"{}\"\n\n", self.entry());
            text += "[proxies]\ntrusted = [\"127.0.0.1\"]\n";
        }
        text += "\n[store]\n";
        text += &match self.store {
            Store::Postgres => self.on_postgres()?,
            Store::Shards => self.on_shards(),
        };
        if let Some(redis) = &self.redis {
            text += &format!("\n[cache]\nurl = \"{}\"\n", redis.url());
        }
        node.config(&text)
    }

    fn on_postgres(&mut self) -> Result<String> {
        let primary = self.primary()?;
        let primary = self.postgres.get(primary).context("no primary")?.url(DATABASE);
        let pooled = self.pgbouncer.as_ref().map(|pgbouncer| pgbouncer.url(DATABASE));
        // Tables are made on a connection that is one session.
        let url = pooled.as_ref().unwrap_or(&primary);
        Ok(format!("url = \"{url}\"\nmigrate = \"{primary}\"\n"))
    }

    fn on_shards(&self) -> String {
        let mut text = "shards = [\n".to_owned();
        for (number, shard) in self.shards.iter().enumerate() {
            let name = format!("shard{}", number + 1);
            let pooled = self.pgbouncer.as_ref().map(|pgbouncer| pgbouncer.url(&name));
            let url = pooled.unwrap_or_else(|| shard.url(DATABASE));
            text += &format!("    \"{name}={url}\",\n");
        }
        text + "]\n"
    }

    fn make_api_key(&self) -> Result<String> {
        let node = self.nodes.first().context("no node")?;
        let scopes = ["--scope", "read", "--scope", "create", "--scope", "admin"];
        let words = ["apikeys", "add", "dev", "--json"].into_iter().chain(scopes);
        let answer = node.cli(words, COMMAND)?.ok().context("make an API key")?;
        let answer: Value = serde_json::from_str(&answer)?;
        let secret = answer.get("secret").and_then(Value::as_str).context("no key was made")?;
        Ok(secret.to_owned())
    }
}
