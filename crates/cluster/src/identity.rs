//! Who servers run as, and the password that their clients need.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

use crate::process::Spec;
use crate::wait;

/// The user that servers run as which refuse to be root: another one when this process is root,
/// else the user that this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User and group, when they are not this process's own.
    other: Option<(u32, u32)>,
}

impl Owner {
    /// Who it is on this machine: `postgres` of Debian's packages, else `nobody`, where this
    /// process is root.
    ///
    /// # Errors
    /// When this process is root and there is neither user.
    pub fn of_servers() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { other: None });
        }
        for name in ["postgres", "nobody"] {
            if let Some(ids) = look_up(name)? {
                return Ok(Self { other: Some(ids) });
            }
        }
        Err(anyhow!("there is no user postgres (Debian package postgresql) and no user nobody"))
    }

    /// Whether it is not this process's own user.
    pub const fn is_other(&self) -> bool {
        self.other.is_some()
    }

    /// Words for [`Spec::wrap`] that run a program as this user. `signal` (`QUIT`) is what the
    /// kernel sends it when the thread that started it ends.
    pub fn wrapper(&self, signal: &str) -> Vec<String> {
        let mut words = vec!["setpriv".to_owned()];
        if let Some((user, group)) = self.other {
            words.push(format!("--reuid={user}"));
            words.push(format!("--regid={group}"));
            words.push("--clear-groups".to_owned());
        }
        // Said again, because the kernel forgets it with the change of the user.
        words.extend(["--pdeathsig", signal, "--"].map(ToOwned::to_owned));
        words
    }

    /// Makes a file or directory this user's.
    ///
    /// # Errors
    /// When it can't be given away.
    pub fn give(&self, path: &Path) -> Result<()> {
        let Some((user, group)) = self.other else { return Ok(()) };
        chown(path, Some(user), Some(group))
            .with_context(|| format!("give {} to user {user}", path.display()))
    }
}

/// User and group number of a user, if there is one of this name.
fn look_up(name: &str) -> Result<Option<(u32, u32)>> {
    let logs = tempfile::tempdir()?;
    let spec = Spec::new("getent", "getent").args(["passwd", name]);
    let finished = spec.run(logs.path(), wait::PATIENCE).context("look up a user")?;
    // getent's own word for "no such entry".
    if finished.code() == 2 {
        return Ok(None);
    }
    let line = finished.ok().with_context(|| format!("look up the user {name}"))?;
    let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok(Some((user, group))),
        _ => Err(anyhow!("no user and group number in {line:?}")),
    }
}

static PASSWORD: OnceLock<String> = OnceLock::new();

/// Sets the password of every server that this process starts: that of servers whose files are
/// there from an earlier process.
///
/// # Errors
/// When another one is in use already, or it is not made of letters and digits.
pub fn set_password(password: &str) -> Result<()> {
    if password.is_empty() || !password.chars().all(|c| c.is_ascii_alphanumeric()) {
        bail!("a password of letters and digits is needed");
    }
    if PASSWORD.get_or_init(|| password.to_owned()) != password {
        bail!("servers with another password run already");
    }
    Ok(())
}

/// The password of every server that this process starts, made anew for each process unless it was
/// set. One for all, because a pooler knows one password per user however many databases are behind
/// it. Letters and digits only, so it needs no quoting in any file or URL.
///
/// # Errors
/// When the kernel gives no random number.
pub fn password() -> Result<&'static str> {
    if let Some(password) = PASSWORD.get() {
        return Ok(password);
    }
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("make a password")?;
    let made: String = uuid.chars().filter(char::is_ascii_alphanumeric).collect();
    Ok(PASSWORD.get_or_init(|| made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(look_up("root").unwrap(), Some((0, 0)));
        assert_eq!(look_up("no-such-user").unwrap(), None);
    }

    #[test]
    fn a_wrapped_program_is_not_root_and_owns_what_it_was_given() {
        let owner = Owner::of_servers().unwrap();
        let directory = tempfile::tempdir().unwrap();
        owner.give(directory.path()).unwrap();
        let spec = Spec::new("sh", "sh").args(["-c", "touch mine && id -u"]);
        let finished = spec.wrap(owner.wrapper("KILL")).run(directory.path(), wait::PATIENCE);
        let user: u32 = finished.unwrap().ok().unwrap().trim().parse().unwrap();
        assert_ne!(user, 0);
        assert!(directory.path().join("mine").exists());
    }

    #[test]
    fn the_password_is_one_and_plain() {
        let first = password().unwrap();
        assert_eq!(first.len(), 32);
        assert!(first.chars().all(|c| c.is_ascii_alphanumeric()));
        assert_eq!(first, password().unwrap());
        set_password(first).unwrap();
        assert!(set_password("another").is_err());
        assert!(set_password("it's").is_err());
    }
}
