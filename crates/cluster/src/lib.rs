//! Real servers as values: each knows its files, how to start, when it is ready, and how to be
//! killed, frozen, healed and stopped.
//!
//! Invariants: nothing outlives its value (a process is killed when its value is dropped, and by
//! the kernel when this process dies); no port is used by two values at a time, on the whole
//! machine; nothing waits for a clock where it can wait for a condition, and every wait is bounded.
//!
//! Linux only, and Debian's tools by name: `setpriv` (util-linux) always, `strace`, `nginx`,
//! `prlimit`, `chromedriver`, PostgreSQL's programs, `pgbouncer`, `redis-server`, `redis-cli` and
//! `haproxy` where a value uses them; `tansu` is cargo's. Citus is in no
//! package: [`citus::installed`] says whether it is there.

pub mod chromedriver;
pub mod citus;
pub mod deploy;
pub mod dynalite;
pub mod faults;
pub mod haproxy;
pub mod http;
pub mod identity;
pub mod local;
pub mod nginx;
pub mod pgbouncer;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod relay;
pub mod server;
pub mod shunt;
pub mod tansu;
pub mod tree;
pub mod wait;

pub use chromedriver::Chromedriver;
pub use citus::Citus;
pub use dynalite::Dynalite;
pub use haproxy::Haproxy;
pub use http::{Address, Connection, Request, Response};
pub use local::Local;
pub use nginx::Nginx;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use process::{Process, Spec};
pub use redis::{Redis, RedisCluster};
pub use relay::Relay;
pub use server::Server;
pub use shunt::Shunt;
pub use tansu::Tansu;
pub use wait::until;
