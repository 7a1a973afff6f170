//! A local cluster under test: its commands, its servers' states, and that nothing of it stays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_cluster::place::Place;
use shunt_cluster::process::Finished;
use shunt_cluster::{Address, Process, Request, Response, Spec, http, shunt, tree, until};

/// The bound of a wait whose condition is expected at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The bound of a command that starts, stops or heals servers, on a machine whose cores are busy.
pub(crate) const LONG: Duration = Duration::from_secs(150);

/// A directory, and what runs in it.
pub(crate) struct Dev {
    place: Place,
    supervisor: Option<Process>,
    guard: Option<Process>,
    /// What `up` has printed.
    pub(crate) report: Value,
}

impl Dev {
    pub(crate) fn new() -> Self {
        let place = Place::new("dev").unwrap();
        // PostgreSQL's user has to reach its own directory in it.
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { place, supervisor: None, guard: None, report: Value::Null }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.place.path().join("cluster")
    }

    fn spec(&self, words: &[&str]) -> Spec {
        let spec = Spec::new("dev", shunt::binary().unwrap()).arg("dev").args(words);
        spec.arg("--dir").arg(self.dir())
    }

    /// `shunt dev up` as a child; it is killed with the test.
    pub(crate) fn up(&mut self) {
        self.up_with(&[]);
    }

    /// The same with more words.
    pub(crate) fn up_with(&mut self, words: &[&str]) {
        let began = Instant::now();
        let words = [&["up", "--json"], words].concat();
        let mut process = self.spec(&words).spawn(self.place.path()).unwrap();
        let line = |process: &mut Process| process.stdout().lines().next().map(str::to_owned);
        self.report =
            process.wait_ready(LONG, |process| serde_json::from_str(&line(process)?).ok()).unwrap();
        println!("up in {:?}", began.elapsed());
        self.supervisor = Some(process);
    }

    /// `shunt dev up --detach`; a guard kills the supervisor should this process be killed.
    pub(crate) fn up_detached(&mut self) {
        let finished = self.spec(&["up", "--detach", "--json"]).run(self.place.path(), LONG);
        self.report = serde_json::from_str(&finished.unwrap().ok().unwrap()).unwrap();
        let script = "tail --pid=\"$1\" -f /dev/null; kill -KILL \"$2\"";
        let numbers = [std::process::id(), self.supervisor_pid()].map(|pid| pid.to_string());
        let guard = Spec::new("guard", "sh")
            .wrap(["setpriv", "--pdeathsig", "clear", "--"])
            .args(["-c", script, "guard"])
            .args(numbers);
        self.guard = Some(guard.spawn(self.place.path()).unwrap());
    }

    pub(crate) fn supervisor_pid(&self) -> u32 {
        self.report["supervisor"].as_u64().unwrap().try_into().unwrap()
    }

    /// The supervisor in the foreground.
    pub(crate) fn supervisor(&mut self) -> &mut Process {
        self.supervisor.as_mut().unwrap()
    }

    pub(crate) fn run(&self, words: &[&str]) -> Finished {
        let logs = tempfile::tempdir_in(self.place.path()).unwrap();
        self.spec(words).run(logs.path(), LONG).unwrap()
    }

    /// Runs a command that has to end well.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.run(words).ok().unwrap_or_else(|error| panic!("{words:?}: {error:#}"))
    }

    /// The servers, and whether all are up by the exit code.
    pub(crate) fn status(&self) -> (Vec<Value>, bool) {
        let finished = self.run(&["status", "--json"]);
        let report: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert!([0, 69].contains(&finished.code()), "{finished:?}");
        (report["servers"].as_array().unwrap().clone(), finished.code() == 0)
    }

    pub(crate) fn server(&self, name: &str) -> Value {
        let (servers, _) = self.status();
        servers.into_iter().find(|server| server["name"] == name).unwrap()
    }

    /// Names of the servers in a role.
    pub(crate) fn in_role(&self, role: &str) -> Vec<String> {
        let (servers, _) = self.status();
        let there = servers.iter().filter(|server| server["role"] == role);
        there.map(|server| server["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until every server is up, and says which is not if one stays away.
    pub(crate) fn wait_all_up(&self) {
        let mut last = Vec::new();
        let up = until(LONG, "all servers to be up", || {
            let (servers, all) = self.status();
            last = servers;
            all.then_some(())
        });
        let wrong: Vec<&Value> = last.iter().filter(|server| server["state"] != "up").collect();
        up.unwrap_or_else(|error| panic!("{error}: {wrong:#?}"));
    }

    /// All processes of the servers that run, those they have started included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let (servers, _) = self.status();
        let roots = servers.iter().filter_map(|server| server["pid"].as_u64());
        roots.flat_map(|pid| tree::members(u32::try_from(pid).unwrap())).collect()
    }

    /// The address that `up` has printed for a server.
    pub(crate) fn address(&self, name: &str) -> String {
        let all = self.report["addresses"].as_array().unwrap();
        let row = all.iter().find(|row| row["name"] == name).unwrap();
        row["address"].as_str().unwrap().to_owned()
    }

    fn entry(&self) -> Address {
        let entry = self.report["entry"].as_str().unwrap().strip_prefix("http://").unwrap();
        Address::Tcp(entry.parse().unwrap())
    }

    /// Asks through HAProxy, or the first node where there is none.
    pub(crate) fn ask(&self, request: Request) -> Response {
        http::ask(&self.entry(), &request.key(self.report["api_key"].as_str().unwrap())).unwrap()
    }

    pub(crate) fn directory_is_gone(&self) -> bool {
        !Path::new(&self.dir()).exists()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Whatever the test has come to.
        if self.guard.is_some() && tree::state(self.supervisor_pid()).is_some() {
            let _ = tree::kill(self.supervisor_pid());
        }
    }
}

/// Waits until none of the processes lives.
pub(crate) fn wait_gone(pids: &[u32]) {
    let gone = || pids.iter().all(|pid| tree::state(*pid).is_none()).then_some(());
    until(SOON, "the end of all servers", gone).unwrap();
}
