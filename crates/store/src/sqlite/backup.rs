//! Online backup, and restore.
//!
//! A backup is one consistent moment of the store, taken while it serves, without the daily
//! secrets of visitor hashes and without the setup secret. It is written under another name,
//! checked, and only then renamed: a file with the asked name is a whole backup.
//!
//! Restoring an old backup forgets the codes given out since. Nothing can know them, so candidates
//! that may have been handed out (pool rows, rests of ranges) are thrown away, and so is the key of
//! the permutation that range codes go through: the counter values given out since count again, and
//! under the old key each of them would give out the code of a link that was lost. The epoch says
//! how often that happened.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension, params};
use shunt_domain::ports::META_RANGE_KEY;

use super::db::{Db, DbOptions};
use super::error::OpenError;
use super::keys::SETUP_SECRET;
use super::lock::DirLock;
use super::schema::LINKS_DB;
use super::store::{SqliteStore, make_dir};

/// The setting that counts how often this data was restored from a backup: a number as eight
/// bytes, big-endian; missing means 0.
pub const META_EPOCH: &str = "epoch";

/// Pages copied between two reports of progress (4 MiB).
const STEP_PAGES: i32 = 1_024;

/// How far a backup or restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Copying: pages done and pages in all.
    Copying {
        /// Pages copied.
        done: u64,
        /// Pages in all.
        total: u64,
    },
    /// Checking the copy; takes about as long as copying.
    Checking,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The file's size in bytes.
    pub bytes: u64,
    /// Links in it, tombstones not counted.
    pub links: u64,
}

/// What a restore did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// Links restored, tombstones not counted.
    pub links: u64,
    /// The store's epoch now. Codes handed out between the backup and the restore are not known
    /// any more and may be given out again: tell the operator.
    pub epoch: u64,
}

impl SqliteStore {
    /// Writes a backup of `links.db` to the new file `to`. Blocks: run it on a thread of its own.
    /// The store goes on serving; its log grows until the backup has been copied.
    ///
    /// # Errors
    /// [`OpenError::Exists`] when `to` is there already; [`OpenError`] for what goes wrong. Nothing
    /// called `to` is left behind then.
    pub fn backup(
        &self,
        to: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<BackupReport, OpenError> {
        if to.exists() {
            return Err(OpenError::Exists { path: to.to_owned() });
        }
        let part = with_suffix(to, ".part");
        let report = copy_and_strip(self.db(), &part, progress);
        finish(report, &part, to)
    }

    /// Puts the backup `from` into the data directory `dir`, which no process may be using.
    /// A store that is there is only replaced if `replace` says so. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; the store in `dir` is what it was then.
    pub fn restore(
        from: &Path,
        dir: &Path,
        replace: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<RestoreReport, OpenError> {
        make_dir(dir)?;
        let _lock = DirLock::acquire(dir, Duration::ZERO)?;
        let to = dir.join(LINKS_DB.file_name);
        if to.exists() && !replace {
            return Err(OpenError::Exists { path: to });
        }
        let part = with_suffix(&to, ".restored");
        let report = bring_in(from, &part, progress);
        if report.is_ok() {
            retire_log(&to);
        }
        finish(report, &part, &to)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Gives the finished file its name, durably, or removes what there is of it.
fn finish<T>(report: Result<T, OpenError>, part: &Path, to: &Path) -> Result<T, OpenError> {
    let renamed = report.and_then(|report| {
        let parent = to.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(part)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(part, to))
            .and_then(|()| File::open(parent.unwrap_or(Path::new("."))))
            .and_then(|dir| dir.sync_all())
            .map_err(|error| OpenError::from_io(to, &error))?;
        Ok(report)
    });
    if renamed.is_err() {
        remove(part);
    }
    renamed
}

/// Removes a database and what SQLite keeps beside it, as far as there is anything.
fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        // Mostly they are not there; if one can't be removed, the next attempt says so.
        let _ = std::fs::remove_file(with_suffix(path, suffix));
    }
}

fn copy_and_strip(
    db: &Db,
    part: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, OpenError> {
    remove(part);
    let theirs = |error: rusqlite::Error| OpenError::from_sqlite(db.path(), &error);
    let ours = |error: rusqlite::Error| OpenError::from_sqlite(part, &error);
    let source = db.reader().map_err(theirs)?;
    // One read transaction around all steps: the copy is one moment, and commits by the writer
    // do not make it start again.
    source
        .execute_batch("BEGIN")
        .and_then(|()| source.query_row("SELECT count(*) FROM counters", [], |_| Ok(())))
        .map_err(theirs)?;
    let mut copy = Connection::open(part).map_err(ours)?;
    copy_pages(&source, &mut copy, progress).map_err(ours)?;
    drop(source);
    strip(&copy).map_err(ours)?;
    progress(Progress::Checking);
    check(&copy, part)?;
    let links = live(&copy).map_err(ours)?;
    copy.close().map_err(|(_, error)| ours(error))?;
    let bytes = std::fs::metadata(part).map_err(|error| OpenError::from_io(part, &error))?.len();
    Ok(BackupReport { bytes, links })
}

fn copy_pages(
    source: &Connection,
    copy: &mut Connection,
    progress: &mut dyn FnMut(Progress),
) -> rusqlite::Result<()> {
    let backup = Backup::new(source, copy)?;
    loop {
        match backup.step(STEP_PAGES)? {
            StepResult::Done => return Ok(()),
            StepResult::Busy | StepResult::Locked => {
                // Something checkpoints: a short wait, then on.
                std::thread::park_timeout(Duration::from_millis(5));
            }
            _ => {
                let now = backup.progress();
                let total = u64::try_from(now.pagecount).unwrap_or(0);
                let left = u64::try_from(now.remaining).unwrap_or(0);
                progress(Progress::Copying { done: total.saturating_sub(left), total });
            }
        }
    }
}

/// Takes the secrets out of a copy, overwriting where they were, and makes it one single file.
fn strip(copy: &Connection) -> rusqlite::Result<()> {
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    copy.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
    copy.execute_batch("BEGIN IMMEDIATE; DELETE FROM visitor_secrets;")?;
    copy.execute("DELETE FROM meta WHERE name = ?1", [SETUP_SECRET])?;
    copy.execute_batch("COMMIT")
}

fn live(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT value FROM counters WHERE name = 'live'", [], |row| {
        row.get::<_, i64>(0).map(|n| u64::try_from(n).unwrap_or(0))
    })
}

/// Reads every page of a file that nobody else uses.
fn check(db: &Connection, path: &Path) -> Result<(), OpenError> {
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| OpenError::from_sqlite(path, &error))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(OpenError::Corrupt { path: path.to_owned(), reason: verdict })
    }
}

/// Copies a backup to `part`, checked, migrated and marked as restored.
fn bring_in(
    from: &Path,
    part: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<RestoreReport, OpenError> {
    if !from.is_file() {
        return Err(OpenError::Missing { what: "backup", path: from.to_owned() });
    }
    remove(part);
    let ours = |error: rusqlite::Error| OpenError::from_sqlite(part, &error);
    let source =
        Db::at(&LINKS_DB, from.to_owned(), DbOptions { create: false, ..DbOptions::default() });
    source.check_header()?;
    {
        let theirs = |error: rusqlite::Error| OpenError::from_sqlite(from, &error);
        let reader = source.reader().map_err(theirs)?;
        let mut copy = Connection::open(part).map_err(ours)?;
        copy_pages(&reader, &mut copy, progress).map_err(theirs)?;
    }
    progress(Progress::Checking);
    let db = Db::at(&LINKS_DB, part.to_owned(), DbOptions::default());
    let mut copy = db.writer().map_err(ours)?;
    check(&copy, from)?;
    db.migrate(&mut copy)?;
    let epoch = mark_restored(&mut copy).map_err(ours)?;
    let links = live(&copy).map_err(ours)?;
    // One file again: the rename must carry everything.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(ours)?;
    copy.close().map_err(|(_, error)| ours(error))?;
    Ok(RestoreReport { links, epoch })
}

/// Makes a copy the store of a new epoch.
fn mark_restored(copy: &mut Connection) -> rusqlite::Result<u64> {
    let transaction = copy.transaction()?;
    let before: Option<[u8; 8]> = transaction
        .query_row("SELECT value FROM meta WHERE name = ?1", [META_EPOCH], |row| row.get(0))
        .optional()?;
    let epoch = before.map_or(0, u64::from_be_bytes) + 1;
    transaction.execute(
        "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
        params![META_EPOCH, epoch.to_be_bytes()],
    )?;
    transaction.execute("DELETE FROM meta WHERE name = ?1", [META_RANGE_KEY])?;
    transaction.execute("DELETE FROM code_pool", [])?;
    transaction.execute("DELETE FROM range_rests", [])?;
    transaction.commit()?;
    Ok(epoch)
}

/// Gets the log of a store that is about to be replaced out of the way: SQLite would take it for
/// the new file's. Moved into its own database if that can still be opened, else removed.
fn retire_log(old: &Path) {
    if let Ok(connection) = Connection::open(old) {
        // The last connection to close empties and removes the log.
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(with_suffix(old, suffix));
    }
}
