//! The suite on the model and on SQLite, and both side by side.

use std::path::Path;

use tempfile::TempDir;

use super::{Restart, Subject};
use crate::model::ModelStore;
use crate::sqlite::{ListBudget, SqliteOptions, SqliteStore};

mod state_machine;

/// The model.
struct Model(ModelStore);

fn model() -> Model {
    Model(ModelStore::default())
}

impl Subject for Model {
    type Store = ModelStore;

    fn store(&self) -> &ModelStore {
        &self.0
    }
}

impl Restart for Model {
    fn restart(self) -> Self {
        self.0.restart();
        self
    }

    fn crash(self) -> Self {
        self.restart()
    }
}

/// SQLite in a directory of its own.
struct Sqlite {
    store: SqliteStore,
    dir: TempDir,
    options: SqliteOptions,
}

fn open(options: SqliteOptions, dir: TempDir) -> Sqlite {
    let store = SqliteStore::open(dir.path(), options.clone()).unwrap();
    Sqlite { store, dir, options }
}

fn sqlite() -> Sqlite {
    open(SqliteOptions::default(), tempfile::tempdir().unwrap())
}

/// SQLite that looks at three rows a page at most, so that nearly every page is short.
fn hasty_sqlite() -> Sqlite {
    let list_budget = ListBudget { rows: 3, ..ListBudget::default() };
    let options = SqliteOptions { list_budget, ..SqliteOptions::default() };
    open(options, tempfile::tempdir().unwrap())
}

/// SQLite that has no time at all for a page, so that searches leave the text index.
fn breathless_sqlite() -> Sqlite {
    let list_budget = ListBudget { time: std::time::Duration::ZERO, ..ListBudget::default() };
    let options = SqliteOptions { list_budget, ..SqliteOptions::default() };
    open(options, tempfile::tempdir().unwrap())
}

impl Subject for Sqlite {
    type Store = SqliteStore;

    fn store(&self) -> &SqliteStore {
        &self.store
    }
}

/// What a kill leaves: the files as the operating system has them at this moment.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    for name in ["links.db", "links.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

impl Restart for Sqlite {
    fn restart(self) -> Self {
        self.store.close();
        open(self.options, self.dir)
    }

    fn crash(self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_files(self.dir.path(), dir.path());
        open(self.options, dir)
    }
}

crate::conformance_suite!(on_model, model);
crate::conformance_suite!(on_sqlite, sqlite);

/// A store with an earlier one behind it that has nothing is as the store alone.
mod with_an_earlier_one {
    use std::sync::Arc;

    use super::*;
    use crate::earlier::WithEarlier;

    struct Both(WithEarlier);

    impl Subject for Both {
        type Store = WithEarlier;

        fn store(&self) -> &WithEarlier {
            &self.0
        }
    }

    fn both() -> Both {
        let (store, earlier) = (Arc::new(ModelStore::default()), ModelStore::default());
        let once = Some(store.clone() as Arc<dyn shunt_domain::ports::CreateOnce>);
        Both(WithEarlier::new(store.clone(), store, once, Arc::new(earlier)))
    }

    crate::conformance_links!(both);
}

mod on_sqlite_with_short_pages {
    use super::*;
    crate::conformance_listing!(hasty_sqlite);
}

mod on_sqlite_without_time {
    use super::*;
    crate::conformance_listing!(breathless_sqlite);
}

/// A fact that nobody runs proves nothing.
#[test]
fn every_fact_is_in_its_macro() {
    let macros = include_str!("macros.rs");
    let files = [
        include_str!("links.rs"),
        include_str!("listing.rs"),
        include_str!("domains.rs"),
        include_str!("idempotency.rs"),
        include_str!("keys.rs"),
        include_str!("pool.rs"),
        include_str!("ranges.rs"),
        include_str!("meta.rs"),
        include_str!("durability.rs"),
    ];
    let mut facts = 0;
    for line in files.iter().flat_map(|file| file.lines()) {
        let Some(rest) = line.strip_prefix("pub async fn ") else { continue };
        let name = rest.split('<').next().unwrap();
        let words = |c: char| !(c.is_alphanumeric() || c == '_');
        assert!(macros.split(words).any(|word| word == name), "{name} is not run");
        facts += 1;
    }
    assert!(facts > 60, "only {facts} facts were found");
}
