//! Layers the sources, reads every value, and checks what belongs together.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Config;
use super::flags::CommonFlags;
use super::parse::Raw;
use super::source::{Environment, Found, from_toml, is_key, secret_twin, unknown_key};
use super::table::{Flag, SETTINGS, Setting, by_key};
use super::urls::misplaced;

/// The name of the settings file in the data directory.
const FILE_NAME: &str = "shunt.toml";

/// The largest settings or secret file, in bytes: more is a mistake.
const MAX_FILE: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, where there is one.
    pub key: Option<String>,
    /// Where the value came from.
    pub origin: Option<Origin>,
    /// What is wrong and what would be right.
    pub why: String,
}

impl Problem {
    pub(super) fn new(key: Option<&str>, origin: Option<Origin>, why: String) -> Self {
        Self { key: key.map(str::to_owned), origin, why }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.why)
    }
}

/// All that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "bad setting: {one}"),
            [first, rest @ ..] => write!(
                f,
                "bad setting: {first} (and {} more; `shunt config check` lists all)",
                rest.len()
            ),
            [] => f.write_str("no problem"),
        }
    }
}

impl std::error::Error for Problems {}

/// The configuration and where each value came from.
#[derive(Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The settings file that was read, if any.
    pub file: Option<PathBuf>,
    /// Things that have no effect but look as if they should.
    pub warnings: Vec<String>,
    /// Every setting in the order of the table: key, value as given, origin.
    pub(super) values: Vec<(&'static Setting, String, Origin)>,
}

impl fmt::Debug for Loaded {
    /// As `config show` prints it: without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::report::show_text(self))
    }
}

impl Loaded {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(flags: &CommonFlags, environment: &Environment) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let from_flags = from_flags(flags, &mut problems);
        let from_environment = from_environment(environment, &mut problems);

        // The file may lie in the data directory, so that one comes first.
        let given_dir = last_text(&from_flags, "data_dir")
            .or_else(|| last_text(&from_environment, "data_dir"))
            .map(PathBuf::from);
        let default_dir = default_data_dir(environment);
        let named =
            flags.config.clone().or_else(|| environment.get("SHUNT_CONFIG").map(Into::into));
        let found_dir = given_dir.unwrap_or_else(|| default_dir.clone());
        let (path, must_exist) = match named {
            Some(path) => (path, true),
            None => (found_dir.join(FILE_NAME), false),
        };
        let text = read_file(&path, must_exist, &mut problems);
        let from_file =
            text.as_deref().map(|text| from_toml(text, &path, &mut problems)).unwrap_or_default();
        if !must_exist
            && let Some((key, raw, origin)) = from_file.iter().find(|(key, ..)| key == "data_dir")
            && Path::new(&raw.shown()) != found_dir
        {
            let why = "the file that lies in the data directory can't name another one; use \
                       --data-dir, or --config with a file elsewhere";
            problems.push(Problem::new(Some(key), Some(origin.clone()), why.to_owned()));
        }

        let layers = [from_file, from_environment, from_flags];
        let mut config = Config { data_dir: default_dir, ..Config::default() };
        let mut values = Vec::new();
        for setting in SETTINGS {
            let value = effective(setting, &layers, &mut problems);
            let (raw, origin) =
                value.unwrap_or_else(|| (Raw::Text(setting.default.to_owned()), Origin::Default));
            if let Err(why) = (setting.set)(&mut config, &raw) {
                problems.push(Problem::new(Some(setting.key), Some(origin.clone()), why));
            }
            values.push((setting, raw.shown(), origin));
        }
        let origin_of = |key: &str| {
            values
                .iter()
                .find(|(setting, ..)| setting.key == key)
                .map(|(.., origin)| origin.clone())
        };
        check_together(&config, &origin_of, &mut problems);
        if problems.is_empty() {
            let warnings = environment.unknown();
            Ok(Self { config, file: text.map(|_| path), warnings, values })
        } else {
            Err(Problems(problems))
        }
    }
}

/// The value of the outermost layer that has one; a secret's `_file` twin counts in its layer.
fn effective(
    setting: &'static Setting,
    layers: &[Vec<Found>],
    problems: &mut Vec<Problem>,
) -> Option<(Raw, Origin)> {
    for layer in layers.iter().rev() {
        let direct = layer.iter().rfind(|(key, ..)| key == setting.key);
        let twin = layer
            .iter()
            .rfind(|(key, ..)| secret_twin(key).is_some_and(|of| of.key == setting.key));
        match (direct, twin) {
            (Some((_, raw, origin)), None) => return Some((raw.clone(), origin.clone())),
            (None, Some((key, raw, origin))) => match read_secret(&raw.shown()) {
                Ok(secret) => return Some((Raw::Text(secret), origin.clone())),
                Err(why) => {
                    problems.push(Problem::new(Some(key), Some(origin.clone()), why));
                    return None;
                }
            },
            (Some((.., origin)), Some((twin, ..))) => {
                let why = format!("{twin} is given as well; give one of the two");
                problems.push(Problem::new(Some(setting.key), Some(origin.clone()), why));
                return None;
            }
            (None, None) => {}
        }
    }
    None
}

fn from_flags(flags: &CommonFlags, problems: &mut Vec<Problem>) -> Vec<Found> {
    let mut found: Vec<Found> = flags
        .values
        .iter()
        .map(|(key, value)| {
            let name = by_key(key).map_or("", |setting| match setting.flag {
                Flag::Common(flag) | Flag::Serve(flag) => flag,
                Flag::No => "set",
            });
            ((*key).to_owned(), Raw::Text(value.clone()), Origin::Flag(format!("--{name}")))
        })
        .collect();
    for set in &flags.sets {
        let origin = Origin::Flag("--set".to_owned());
        match set.split_once('=') {
            Some((key, value)) if is_key(key.trim()) => {
                found.push((key.trim().to_owned(), Raw::Text(value.to_owned()), origin));
            }
            Some((key, _)) => problems.push(unknown_key(key.trim(), Some(origin))),
            None => {
                let why = format!("{set:?} is no setting; write --set KEY=VALUE");
                problems.push(Problem::new(None, Some(origin), why));
            }
        }
    }
    found
}

fn from_environment(environment: &Environment, problems: &mut Vec<Problem>) -> Vec<Found> {
    let mut found = Vec::new();
    for setting in SETTINGS {
        let mut take = |name: String, key: String| {
            if let Some(value) = environment.get(&name) {
                found.push((key, Raw::Text(value.to_owned()), Origin::Environment(name)));
            }
        };
        take(setting.env.to_owned(), setting.key.to_owned());
        if setting.secret {
            take(format!("{}_FILE", setting.env), format!("{}_file", setting.key));
        } else if let Some(value) = environment.get(&format!("{}_FILE", setting.env)) {
            // Silently ignored it would look as if it worked.
            let name = format!("{}_FILE", setting.env);
            let why = format!("{} is no secret and is not read from {value:?}", setting.env);
            problems.push(Problem::new(Some(setting.key), Some(Origin::Environment(name)), why));
        }
    }
    found
}

fn last_text(found: &[Found], key: &str) -> Option<String> {
    found.iter().rfind(|(name, ..)| name == key).map(|(_, raw, _)| raw.shown())
}

/// `$XDG_DATA_HOME/shunt`, else `$HOME/.local/share/shunt`, else `shunt-data` here. Relative XDG
/// paths are to be ignored (XDG base directory specification).
fn default_data_dir(environment: &Environment) -> PathBuf {
    let absolute =
        |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("shunt-data"), |dir| dir.join("shunt"))
}

fn read_file(path: &Path, must_exist: bool, problems: &mut Vec<Problem>) -> Option<String> {
    match read_bounded(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => None,
        Err(error) => {
            let why = format!("can't read the settings file {}: {error}", path.display());
            problems.push(Problem::new(None, None, why));
            None
        }
    }
}

fn read_secret(path: &str) -> Result<String, String> {
    let text = read_bounded(Path::new(path.trim()))
        .map_err(|error| format!("can't read {path:?}: {error}"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE {
        let why = format!("it has {size} bytes, at most {MAX_FILE} are read");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
    }
    std::fs::read_to_string(path)
}

/// What single values can't show.
fn check_together(
    config: &Config,
    origin_of: &dyn Fn(&str) -> Option<Origin>,
    problems: &mut Vec<Problem>,
) {
    let mut wrong = |key: &str, why: &str| {
        // A value that was not even read is reported as such already.
        if !problems.iter().any(|problem| problem.key.as_deref() == Some(key)) {
            problems.push(Problem::new(Some(key), origin_of(key), why.to_owned()));
        }
    };
    if config.links.code_max_length < config.links.code_length {
        wrong("links.code_max_length", "it is less than links.code_length; raise it");
    }
    if let Some(why) = misplaced(&config.store.url, &config.store.replicas) {
        wrong("store.replicas", &why);
    }
    if config.store.stats.is_some() && config.store.url.has_stats() {
        wrong("stats.store", "this store keeps figures of clicks beside its links; leave it out");
    }
    let legacy = &config.legacy;
    if legacy.urls.len() > 1 && legacy.nodes.len() != legacy.urls.len() {
        wrong("legacy.nodes", "there must be one name for each address of legacy.url");
    }
    if let Some(options) = legacy.options()
        && let Err(why) = options.names.check()
    {
        wrong(
            "legacy.table",
            &format!("a name of [legacy] is no name of a table or column: {why}"),
        );
    }
    let tls = &config.tls;
    if tls.listen.is_some() {
        for (file, key) in [(&tls.cert, "tls.cert"), (&tls.key, "tls.key")] {
            if file.is_none() {
                wrong(key, "tls.listen needs it; name a PEM file");
            }
        }
    }
    let busy = |other: Option<std::net::SocketAddr>| {
        other.is_some() && other == config.listen && other.is_some_and(|a| a.port() != 0)
    };
    if busy(config.ops_listen) {
        wrong("ops_listen", "it is the same as listen; use another port, or off");
    }
    if busy(tls.listen) {
        wrong("tls.listen", "it is the same as listen; use another port");
    }
    if (config.proxy_protocol.listen || config.proxy_protocol.tls)
        && config.proxies.trusted.is_empty()
    {
        let key = if config.proxy_protocol.listen {
            "proxy_protocol.listen"
        } else {
            "proxy_protocol.tls"
        };
        wrong(key, "it needs proxies.trusted: nobody else may say where visitors come from");
    }
    if config.proxy_protocol.tls && tls.listen.is_none() {
        wrong("proxy_protocol.tls", "there is no tls.listen it could be for; set that or leave it");
    }
}
