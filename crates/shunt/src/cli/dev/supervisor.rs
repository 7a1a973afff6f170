//! The process that the servers belong to: it starts them, answers the other commands, and ends
//! with them.
//!
//! Invariant: one thread does all of it, because servers die with the thread that started them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use shunt_cluster::Local;
use shunt_cluster::local::{self, Options, Store};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{self, Line, Request};
use super::report::{self, Steps};
use super::{SOCKET, Up};
use crate::cli::block_on;
use crate::cli::exit::{Code, Failure, one_line};

/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(5);

/// Starts the cluster and stays with it, or leaves that to a process in the background.
pub(super) fn up(dir: &Path, args: &Up, store: Option<Store>) -> anyhow::Result<()> {
    if client::connect(dir)?.is_some() {
        let dir = dir.display();
        let text = format!(
            "a local cluster runs in {dir} already; see `shunt dev status --dir {dir}`, or stop it \
             with `shunt dev down --dir {dir}`"
        );
        return Err(Failure::error(Code::Temporary, text));
    }
    local::check_directory(dir)
        .map_err(|error| Failure::error(Code::Unavailable, one_line(&error)))?;
    if args.supervisor {
        return supervisor(dir, args, store);
    }
    let mut steps = Steps::new("starting");
    if args.detach {
        let up = detach(dir, args, store, &mut |what| steps.at(what))?;
        steps.finish();
        return report::up(&up, args.json);
    }
    let (local, up) = start(dir, args, store, &mut |what| steps.at(what))?;
    steps.finish();
    report::up(&up, args.json)?;
    eprintln!("Stop it with Ctrl-C or `shunt dev down`.");
    serve(local)
}

fn start(
    dir: &Path,
    args: &Up,
    store: Option<Store>,
    step: &mut dyn FnMut(&str),
) -> anyhow::Result<(Local, Value)> {
    let options = Options {
        directory: dir.to_owned(),
        binary: std::env::current_exe().context("find this program")?,
        store,
        without: args.without.clone(),
    };
    let mut local = Local::start(&options, step)
        .map_err(|error| Failure::error(Code::Unavailable, one_line(&error)))?;
    let report = report::of(&mut local)?;
    Ok((local, report))
}

/// Starts the supervisor and waits until the cluster is up.
fn detach(
    dir: &Path,
    args: &Up,
    store: Option<Store>,
    step: &mut dyn FnMut(&str),
) -> anyhow::Result<Value> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let log = dir.join(local::LOG);
    let log = File::create(&log).with_context(|| format!("open {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["dev", "up", "--supervisor", "--dir"]).arg(dir);
    if let Some(store) = store {
        command.args(["--store", store.name()]);
    }
    for part in &args.without {
        command.args(["--without", part.name()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("start the supervisor")?;
    let stdout = child.stdout.take().context("listen to the supervisor")?;
    client::outcome(BufReader::new(stdout), step)
}

/// The supervisor's own life. What it has to say goes to the process that waits for it.
fn supervisor(dir: &Path, args: &Up, store: Option<Store>) -> anyhow::Result<()> {
    // Ctrl-C and the end of the terminal are the other's.
    rustix::process::setsid().context("leave the terminal")?;
    let say = |line: &Line| std::io::stdout().write_all(line.text().as_bytes());
    let started = start(dir, args, store, &mut |what| {
        // Nobody waits any more: it was interrupted, and with it what it had begun.
        if say(&Line::Step(what.to_owned())).is_err() {
            std::process::exit(Code::Failure as i32);
        }
    });
    let (local, report) = match started {
        Ok(started) => started,
        Err(error) => {
            say(&Line::Failed(one_line(&error)))?;
            return Err(error);
        }
    };
    say(&Line::Done(report))?;
    serve(local)
}

/// How the cluster ends.
struct End {
    purge: bool,
    /// Who has asked for it, if it was no signal.
    client: Option<UnixStream>,
}

/// Answers until somebody wants an end, then stops everything.
fn serve(mut local: Local) -> anyhow::Result<()> {
    let dir = local.directory().to_owned();
    let path = dir.join(SOCKET);
    // A crashed one's: the directory is ours.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let mut end = block_on(async {
        let listener =
            UnixListener::bind(&path).with_context(|| format!("bind {}", path.display()))?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = hangup.recv() => break,
            };
            let (stream, _) = accepted.context("accept a command")?;
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            // A client that has gone is no reason to end.
            if let Ok(Some(end)) = answer(&mut local, stream) {
                return Ok(end);
            }
        }
        Ok(End { purge: false, client: None })
    })?;
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;

    let mut steps = end.client.is_none().then(|| Steps::new("stopping"));
    let mut step = |what: &str| match (&mut end.client, &mut steps) {
        (Some(client), _) => say(client, &Line::Step(what.to_owned())),
        (None, Some(steps)) => steps.at(what),
        (None, None) => {}
    };
    let mut stopped = local.stop(&mut step);
    if end.purge {
        stopped = stopped.and(local::clear(&dir, true));
    }
    if let Some(steps) = steps {
        steps.finish();
    }
    if let Some(client) = &mut end.client {
        match &stopped {
            Ok(()) => say(client, &Line::Done(Value::Null)),
            Err(error) => say(client, &Line::Failed(one_line(error))),
        }
    }
    stopped
}

/// Writes a line to a client, who may have gone.
fn say(client: &mut UnixStream, line: &Line) {
    let _nobody_waits = client.write_all(line.text().as_bytes());
}

/// Does what one client asks for; an end is the caller's to bring about.
fn answer(local: &mut Local, mut client: UnixStream) -> anyhow::Result<Option<End>> {
    client.set_read_timeout(Some(REQUEST))?;
    client.set_write_timeout(Some(REQUEST))?;
    let mut line = String::new();
    BufReader::new(client.try_clone()?).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let outcome = match request {
        Request::Status => report::of(local),
        Request::Kill { node, freeze } => local.kill(&node, freeze).map(|()| Value::Null),
        Request::Heal { node } => {
            let mut step = |what: &str| say(&mut client, &Line::Step(what.to_owned()));
            local.heal(node.as_deref(), &mut step).map(|done| {
                let done: Vec<Value> = done
                    .into_iter()
                    .map(|(server, deed)| json!({ "name": server, "done": deed }))
                    .collect();
                json!({ "healed": done })
            })
        }
        Request::Down { purge } => return Ok(Some(End { purge, client: Some(client) })),
    };
    let line = outcome.map_or_else(|error| Line::Failed(one_line(&error)), Line::Done);
    say(&mut client, &line);
    Ok(None)
}
