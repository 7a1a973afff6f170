//! Layering, completeness of reports, and that everything made from the table agrees with it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args as _, Command, FromArgMatches as _};

use super::table::{Flag, SETTINGS, sections};
use super::*;

fn flags(arguments: &[&str]) -> CommonFlags {
    let command = ServeFlags::augment_args(CommonFlags::augment_args(Command::new("shunt")));
    let matches = command
        .try_get_matches_from(std::iter::once("shunt").chain(arguments.iter().copied()))
        .unwrap();
    let serve = ServeFlags::from_arg_matches(&matches).unwrap();
    CommonFlags::from_arg_matches(&matches).unwrap().with(serve)
}

/// A data directory with a settings file.
fn data_dir(toml: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shunt.toml"), toml).unwrap();
    dir
}

fn load(toml: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Result<Loaded, Problems> {
    let dir = data_dir(toml);
    let mut variables = vec![("SHUNT_DATA_DIR", dir.path().to_str().unwrap())];
    variables.extend(environment);
    Loaded::load(&flags(arguments), &Environment::of(variables))
}

fn problems(toml: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Vec<String> {
    match load(toml, environment, arguments) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn nothing_configured_works() {
    let home = Environment::of([("HOME", "/home/ada")]);
    let loaded = Loaded::load(&CommonFlags::default(), &home).unwrap();
    let config = &loaded.config;
    assert_eq!(config.data_dir, PathBuf::from("/home/ada/.local/share/shunt"));
    assert_eq!(config.links_db(), PathBuf::from("/home/ada/.local/share/shunt/links.db"));
    assert_eq!(config.socket(), PathBuf::from("/home/ada/.local/share/shunt/shunt.sock"));
    assert_eq!(config.listen, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(config.ops_listen, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(config.cache.l1_bytes, 128 << 20);
    assert_eq!(config.cache.negative_ttl, Duration::from_secs(1));
    assert_eq!(config.timeouts.first_byte, Duration::from_secs(5));
    assert_eq!(config.clicks.ring_bytes, 8 << 20);
    assert_eq!(config.clicks.flush, Duration::from_millis(40));
    assert_eq!(config.code_settings(), CodeSettings::default());
    assert!(loaded.file.is_none());
    assert!(loaded.values.iter().all(|(.., origin)| *origin == Origin::Default));
    let nowhere = Loaded::load(&CommonFlags::default(), &Environment::default()).unwrap();
    assert_eq!(nowhere.config.data_dir, PathBuf::from("shunt-data"));
    let xdg = Environment::of([("HOME", "/home/ada"), ("XDG_DATA_HOME", "/data")]);
    let xdg = Loaded::load(&CommonFlags::default(), &xdg).unwrap();
    assert_eq!(xdg.config.data_dir, PathBuf::from("/data/shunt"));
}

#[test]
fn file_then_environment_then_flags() {
    let file = "listen = '127.0.0.1:1'\n[links]\ncode_length = 5\ncode_max_length = 9\n";
    let port = |environment: &[(&str, &str)], arguments: &[&str]| {
        load(file, environment, arguments).unwrap().config.listen.unwrap().port()
    };
    let variable = [("SHUNT_LISTEN", "127.0.0.1:2")];
    assert_eq!(port(&[], &[]), 1);
    assert_eq!(port(&variable, &[]), 2);
    assert_eq!(port(&variable, &["--listen", "127.0.0.1:3"]), 3);
    assert_eq!(port(&variable, &["--set", "listen=127.0.0.1:4"]), 4);
    assert_eq!(port(&[("SHUNT_LISTEN", "")], &[]), 1, "an empty variable is not set");
    let loaded = load(file, &[("SHUNT_LINKS_CODE_LENGTH", "6")], &[]).unwrap();
    assert_eq!(loaded.config.links.code_length, 6);
    assert_eq!(loaded.config.links.code_max_length, 9, "other keys keep the file's value");
    let shown = show_text(&loaded);
    assert!(shown.contains("links.code_length = 6  # SHUNT_LINKS_CODE_LENGTH\n"), "{shown}");
    assert!(shown.contains("shunt.toml:4\n"), "{shown}");
    assert!(shown.contains("cores = 0  # default\n"), "{shown}");
}

#[test]
fn all_problems_are_listed_at_once_with_their_places() {
    let file = "lisen = '127.0.0.1:1'\n\
                cores = 'many'\n\
                [link]\n\
                immutable = true\n\
                [links]\n\
                code_lenght = 5\n\
                alphabet = 'aa'\n\
                [cache]\n\
                negative_ttl = '2s'\n\
                l1_bytes = { a = 1 }\n";
    let environment = [("SHUNT_TIMEOUTS_IDLE", "soon"), ("SHUNT_STORE", "mysql://me:geheim@db")];
    let all = problems(file, &environment, &["--backlog", "0", "--set", "links.imutable=true"]);
    let expect = |place: &str, words: &str| {
        let found = all.iter().any(|problem| problem.contains(place) && problem.contains(words));
        assert!(found, "{place} {words} is not in {all:#?}");
    };
    expect("shunt.toml:1: lisen", "did you mean listen?");
    expect("shunt.toml:2: cores", "\"many\" is no whole number");
    expect("shunt.toml:3", "did you mean [links]?");
    expect("shunt.toml:6: links.code_lenght", "did you mean links.code_length?");
    expect("shunt.toml:7: links.alphabet", "there twice");
    expect("shunt.toml:9: cache.negative_ttl", "2s is not between 0s and 1s");
    expect("shunt.toml:10: cache.l1_bytes", "no value for a setting");
    expect("SHUNT_TIMEOUTS_IDLE: timeouts.idle", "with its unit");
    expect("SHUNT_STORE: store.url", "no address shunt knows");
    expect("--backlog: backlog", "0 is not between 1 and 65535");
    expect("--set: links.imutable", "did you mean links.immutable?");
    assert_eq!(all.len(), 11, "{all:#?}");
    assert!(!all.concat().contains("geheim"), "a problem shows a secret");
}

#[test]
fn broken_toml_is_located_and_does_not_hide_the_rest() {
    let all = problems("listen = \n[links]\nimmutable = maybe\ncode_length = 0\n", &[], &[]);
    assert!(all.iter().any(|problem| problem.contains("shunt.toml:1")), "{all:#?}");
    assert!(all.iter().any(|problem| problem.contains("shunt.toml:3")), "{all:#?}");
    assert!(all.iter().any(|problem| problem.contains("links.code_length")), "{all:#?}");
}

#[test]
fn garbage_files_are_refused_and_never_panic() {
    let huge = "# x\n".repeat(400_000);
    for (text, words) in [
        ("\u{0}\u{1}\u{2}", "shunt.toml:1"),
        ("[[links]]\n", "links"),
        ("listen = 1\nlisten = 2\n", "shunt.toml:2"),
        ("listen = 1979-05-27", "no value"),
        ("[links", "shunt.toml:1"),
        (huge.as_str(), "at most 1048576"),
    ] {
        let all = problems(text, &[], &[]).join("\n");
        assert!(all.contains(words), "{:?} gives {all:?}", text.get(..20));
    }
    let empty = load("", &[], &[]).unwrap();
    assert!(empty.file.is_some());
}

#[test]
fn settings_that_belong_together_are_checked_together() {
    for (arguments, key) in [
        (&["--set", "links.code_length=20"][..], "links.code_max_length"),
        (&["--set", "tls.listen=127.0.0.1:8443"], "tls.cert"),
        (&["--listen", "127.0.0.1:9100"], "ops_listen"),
        (&["--set", "tls.listen=127.0.0.1:8080"], "tls.listen"),
        (&["--set", "proxy_protocol.listen=true"], "proxies.trusted"),
        (&["--set", "proxy_protocol.tls=true", "--set", "proxies.trusted=::1"], "tls.listen"),
        (&["--store", "sqlite:///tmp/clicks.db"], "called links.db"),
        (&["--listen", "off"], "needs an address"),
    ] {
        let all = problems("", &[], arguments).join("\n");
        assert!(all.contains(key), "{arguments:?} gives {all:?}");
    }
    assert!(problems("", &[], &["--ops-listen", "off"]).is_empty());
    assert!(problems("data_dir = '/elsewhere'", &[], &[])[0].contains("can't name another"));
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("store");
    std::fs::write(&secret, "sqlite:///srv/links.db\n").unwrap();
    let path = secret.to_str().unwrap();
    let loaded = load("", &[("SHUNT_STORE_FILE", path)], &[]).unwrap();
    assert_eq!(loaded.config.store_dir(), Path::new("/srv"));
    let file = format!("[store]\nurl_file = '{path}'\n");
    let loaded = load(&file, &[], &[]).unwrap();
    assert_eq!(loaded.config.store_dir(), Path::new("/srv"));
    // An outer layer wins over an inner file, and both in one layer are refused.
    let loaded = load(&file, &[("SHUNT_STORE", "sqlite:///x/links.db")], &[]).unwrap();
    assert_eq!(loaded.config.store_dir(), Path::new("/x"));
    let both = [("SHUNT_STORE", "sqlite:///x/links.db"), ("SHUNT_STORE_FILE", path)];
    assert!(problems("", &both, &[])[0].contains("one of the two"));
    let missing = problems("", &[("SHUNT_STORE_FILE", "/no/such/file")], &[]);
    assert!(missing[0].contains("can't read \"/no/such/file\""), "{missing:?}");
    let no_secret = problems("", &[("SHUNT_LISTEN_FILE", path)], &[]);
    assert!(no_secret[0].contains("is no secret"), "{no_secret:?}");
}

#[test]
fn mistyped_variables_are_warned_about() {
    let loaded = load("", &[("SHUNT_LISEN", "x"), ("SHUNT_SERVICE_HOST", "y")], &[]).unwrap();
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("did you mean SHUNT_LISTEN?"), "{:?}", loaded.warnings);
}

#[test]
fn a_named_file_must_exist() {
    let flags = flags(&["--config", "/no/such/shunt.toml"]);
    let error = Loaded::load(&flags, &Environment::default()).unwrap_err();
    assert!(error.to_string().contains("/no/such/shunt.toml"), "{error}");
}

#[test]
fn the_base_url_is_checked_and_derived() {
    let config = |arguments: &[&str]| load("", &[], arguments).unwrap().config;
    let derived = |bound: &str| config(&[]).base_url(bound.parse().unwrap());
    assert_eq!(derived("127.0.0.1:8080"), "http://127.0.0.1:8080");
    assert_eq!(derived("0.0.0.0:80"), "http://127.0.0.1");
    assert_eq!(derived("[::]:8080"), "http://[::1]:8080");
    let bound = "127.0.0.1:8080".parse().unwrap();
    assert_eq!(config(&["--base-url", "https://go.x/s/"]).base_url(bound), "https://go.x/s");
    for bad in ["go.example", "ftp://go.example", "https://a@b", "https://", "https://a/?q", "a b"]
    {
        assert_eq!(problems("", &[], &["--base-url", bad]).len(), 1, "{bad}");
    }
}

#[test]
fn the_table_is_sound() {
    let mut keys = HashSet::new();
    let mut variables = HashSet::new();
    let mut flags = HashSet::new();
    for setting in SETTINGS {
        assert!(keys.insert(setting.key), "{} twice", setting.key);
        assert!(variables.insert(setting.env), "{} twice", setting.env);
        let derived = format!("SHUNT_{}", setting.key.replace('.', "_").to_uppercase());
        // The addresses of the other services keep the short names that they are known by.
        let expected = derived.strip_suffix("_URL").filter(|_| setting.secret).unwrap_or(&derived);
        assert_eq!(setting.env, if setting.key == "base_url" { &derived } else { expected });
        if let Flag::Common(flag) | Flag::Serve(flag) = setting.flag {
            assert!(flags.insert(flag), "--{flag} twice");
        }
        assert!(setting.doc.ends_with('.'), "{}", setting.key);
        assert!(setting.doc.len() > 20, "{}", setting.key);
        // A number that can be set too high or too low says what happens then.
        let bounded = ["size", "duration", "number", "milliseconds"].contains(&setting.unit);
        assert!(
            !bounded || setting.doc.contains("Too ") || setting.doc.contains("at most"),
            "{} does not say what too high or too low does",
            setting.key
        );
    }
    let all = sections();
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!(all.len(), distinct.len(), "the settings of a section stand together");
}

#[test]
fn the_default_file_says_nothing_new_when_uncommented() {
    let text = default_toml();
    assert!(problems(&text, &[], &[]).is_empty());
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        // The directory the file lies in can't be named in it.
        .filter(|line| !line.starts_with("data_dir"))
        .map(|line| format!("{line}\n"))
        .collect();
    let plain = load("", &[], &[]).unwrap();
    let explicit = load(&uncommented, &[], &[]).unwrap();
    let without_dirs = |loaded: &Loaded| {
        let config = Config { data_dir: PathBuf::new(), ..loaded.config.clone() };
        format!("{config:?}")
    };
    assert_eq!(without_dirs(&plain), without_dirs(&explicit));
    let set = explicit.values.iter().filter(|(.., origin)| *origin != Origin::Default).count();
    assert_eq!(set, SETTINGS.len(), "every setting stands in the default file");
}

#[test]
fn the_reference_page_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == reference(),
        "docs/config.md is stale; run: cargo run -- config default --markdown > docs/config.md"
    );
}

#[test]
fn values_are_read_with_their_units() {
    let config = load(
        "[cache]\nl1_bytes = 1_048_576\nmax_stale = '2d'\n[clicks]\nflush_ms = 30\nfold_ms = '1s'\n\
         [links]\nextra_schemes = ['Mailto', 'tel']\n[proxies]\ntrusted = ['10.0.0.0/8', '::1']\n\
         [limits]\nmisses = '5_000/1h'\nlogins = 0\n",
        &[("SHUNT_CLICKS_SPOOL_BYTES", "2 GiB")],
        &[],
    )
    .unwrap()
    .config;
    assert_eq!(config.cache.l1_bytes, 1 << 20);
    assert_eq!(config.cache.max_stale, Duration::from_secs(172_800));
    assert_eq!(config.clicks.flush, Duration::from_millis(30));
    assert_eq!(config.clicks.fold, Duration::from_secs(1));
    assert_eq!(config.clicks.spool_bytes, 2 << 30);
    assert_eq!(config.links.extra_schemes, ["mailto", "tel"]);
    assert_eq!(config.proxies.trusted.len(), 2);
    let rate = shunt_domain::limit::Rate::new(5_000, Duration::from_secs(3_600));
    assert!(rate.is_some());
    assert_eq!((config.limits.misses, config.limits.logins), (rate, None));
    for (key, value) in [
        ("cache.l1_bytes", "1 furlong"),
        ("cache.l1_bytes", "99999999999999999999"),
        ("cache.l1_bytes", "18446744073709551615GiB"),
        ("timeouts.idle", "60"),
        ("timeouts.idle", "-5s"),
        ("limits.misses", "60"),
        ("limits.misses", "60/m"),
        ("limits.misses", "0/1m"),
        ("limits.misses", "-1/1m"),
        ("limits.misses", "60/100ms"),
        ("limits.misses", "60/2d"),
        ("limits.misses", "10000000/1m"),
        ("links.immutable", "yes"),
        ("links.allocator", "counter"),
        ("links.extra_schemes", "mail to"),
        ("proxies.trusted", "10.0.0.0/33"),
        ("stats.timezone", "Mars/Olympus"),
        ("log.level", "loud"),
        ("log.level", "shunt_http=loud"),
        ("ops_listen", "9100"),
        ("cache.url", "memcached://localhost"),
        ("cache.url", "redis://a,b"),
        ("cache.prefix", "a{b}"),
        ("events.url", "kafka://localhost"),
        ("store.url", "sqlite://relative.db"),
    ] {
        let set = format!("{key}={value}");
        let all = problems("", &[], &["--set", &set]);
        assert_eq!(all.len(), 1, "{set}: {all:?}");
        assert!(all[0].contains(key), "{all:?}");
    }
}
