//! The `shunt` binary: command line, configuration, wiring.

mod bench;
mod cli;
mod client;
mod config;
mod serve;
mod stores;

/// Several times faster than glibc's allocator with one arena per core, and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The commit this was built from, where the build says so (`SHUNT_COMMIT`).
fn commit() -> &'static str {
    option_env!("SHUNT_COMMIT").unwrap_or("unknown")
}

fn main() -> std::process::ExitCode {
    // Databases, spool and sockets are for their owner alone, whoever made the directory.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    cli::main()
}
