//! Where an import stands, so that it can go on after it was stopped.
//!
//! The state lies in the data directory under the hash of the imported file, is replaced after
//! every chunk the server acknowledged, and goes away at the end. Rows without a code are sent
//! under an idempotency key made of the run and their place, so a chunk whose answer was lost is
//! not made twice.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How far an import has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// SHA-256 of the file, hexadecimal.
    pub(crate) file: String,
    /// Random; part of every idempotency key.
    pub(crate) run: String,
    /// Rows that are settled: they are skipped.
    pub(crate) settled: u64,
    /// Links made so far.
    pub(crate) created: u64,
    /// Rows of an export put back so far.
    pub(crate) restored: u64,
    /// Rows that were there already so far.
    pub(crate) exists: u64,
    /// Rows refused so far.
    pub(crate) refused: u64,
}

impl State {
    /// The beginning of an import.
    pub(crate) fn new(file: String) -> anyhow::Result<Self> {
        let run = crate::client::idempotency_key()?;
        Ok(Self { file, run, settled: 0, created: 0, restored: 0, exists: 0, refused: 0 })
    }
}

/// SHA-256 of a file, hexadecimal.
pub(crate) fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = std::io::Read::read(&mut file, &mut buffer)?;
        match buffer.get(..count) {
            Some([]) | None => break,
            Some(bytes) => hasher.update(bytes),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The state's file.
pub(crate) struct StateFile(PathBuf);

impl StateFile {
    /// The place of the state of the file with this hash.
    pub(crate) fn of(data_dir: &Path, hash: &str) -> Self {
        let short = hash.get(..16).unwrap_or(hash);
        Self(data_dir.join(format!("import-{short}.json")))
    }

    /// The state, if there is one.
    pub(crate) fn read(&self) -> anyhow::Result<Option<State>> {
        match std::fs::read(&self.0) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged; remove it", self.0.display()))
                .map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", self.0.display())),
        }
    }

    /// Replaces the state whole.
    pub(crate) fn write(&self, state: &State) -> anyhow::Result<()> {
        let part = self.0.with_extension("part");
        let text = serde_json::to_vec(state).context("write the import's state")?;
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &self.0))
            .with_context(|| format!("write {}", self.0.display()))
    }

    /// Removes it.
    pub(crate) fn remove(&self) {
        let _not_there_is_fine = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_back_and_go_away() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("x.csv");
        std::fs::write(&input, "abc").unwrap();
        let hash = hash(&input).unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let file = StateFile::of(dir.path(), &hash);
        assert_eq!(file.read().unwrap(), None);
        let mut state = State::new(hash).unwrap();
        state.settled = 7;
        file.write(&state).unwrap();
        assert_eq!(file.read().unwrap(), Some(state));
        std::fs::write(&file.0, "{").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("is damaged"));
        file.remove();
        assert_eq!(file.read().unwrap(), None);
    }
}
