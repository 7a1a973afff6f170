//! Where rings lie: making them for a boot, finding those of earlier boots, removing them.
//!
//! In each directory of rings a link `owner` names the data directory, so that people and tools
//! can tell rings whose data directory is gone for good; the program itself never guesses that (a
//! disk may just not be mounted yet).
//!
//! Invariant: a directory that others could write to is never used. `/dev/shm` is open to all
//! users, so the directory in it must be ours, mode 0700, and no symbolic link.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shunt_domain::ports::{BootId, NodeId};
use xxhash_rust::xxh3::xxh3_64;

use super::{Ring, RingId, mapping_words};
use crate::config::PipelineConfig;
use crate::mapping::Mapping;

/// The link to the data directory.
const OWNER: &str = "owner";

/// In which life of the machine we are: a hash of the kernel's boot id; 0 when there is none,
/// and then no ring of an earlier process is trusted.
pub(crate) fn machine_life() -> u64 {
    fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| xxh3_64(&id).max(1))
}

/// The directories to try, best first.
pub(crate) fn candidates(config: &PipelineConfig) -> Vec<PathBuf> {
    if let Some(dir) = &config.ring_dir {
        return vec![dir.clone()];
    }
    let in_data = config.data_dir.join("ring");
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return vec![in_data];
    }
    let whole = fs::canonicalize(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let name = format!("shunt-{:016x}", xxh3_64(whole.as_os_str().as_bytes()));
    vec![shm.join(name), in_data]
}

/// Makes sure that `dir` exists and that only we can write to it.
fn private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(dir)?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    if !ours {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a directory of this user: remove it", dir.display()),
        ));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn name(id: RingId) -> String {
    format!("ring-{:016x}-{:020}-{:04}", id.node.0, id.boot.0, id.core)
}

/// Node and boot of a ring file's name.
fn parse(name: &str) -> Option<(NodeId, BootId)> {
    let mut parts = name.strip_prefix("ring-")?.split('-');
    let node = u64::from_str_radix(parts.next()?, 16).ok()?;
    let boot = parts.next()?.parse().ok()?;
    let _core: u32 = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((NodeId(node), BootId(boot)))
}

/// Makes the rings of a boot in the first directory that takes them all, else in plain memory.
/// Answers the directory, `None` for plain memory.
///
/// # Errors
/// When there is not even plain memory.
pub(crate) fn create(
    config: &PipelineConfig,
    node: NodeId,
    boot: BootId,
) -> io::Result<(Vec<Arc<Ring>>, Option<PathBuf>)> {
    let words = mapping_words(config.ring_bytes);
    let machine = machine_life();
    let id = |core| RingId { node, boot, core, cores: config.cores };
    for dir in candidates(config) {
        if private_dir(&dir).is_err() {
            continue;
        }
        let made: io::Result<Vec<_>> = (0..config.cores)
            .map(|core| {
                let mapping = Mapping::create(&dir.join(name(id(core))), words)?;
                Ok(Arc::new(Ring::init(mapping, id(core), machine)))
            })
            .collect();
        match made {
            Ok(rings) => {
                let owner = fs::canonicalize(&config.data_dir);
                // Only for people: without it everything works.
                let _ = owner.and_then(|owner| symlink(owner, dir.join(OWNER)));
                return Ok((rings, Some(dir)));
            }
            Err(_) => remove_in(&dir, node, boot),
        }
    }
    let rings: io::Result<Vec<_>> = (0..config.cores)
        .map(|core| Ok(Arc::new(Ring::init(Mapping::in_memory(words)?, id(core), machine))))
        .collect();
    Ok((rings?, None))
}

/// The boots of `node` that have ring files, in order, each once.
pub(crate) fn boots(config: &PipelineConfig, node: NodeId) -> Vec<BootId> {
    let mut boots: Vec<BootId> = candidates(config)
        .iter()
        .flat_map(|dir| files(dir))
        .filter(|&(_, owner, _)| owner == node)
        .map(|(_, _, boot)| boot)
        .collect();
    boots.sort_unstable();
    boots.dedup();
    boots
}

/// The readable rings of a boot, by core; damaged ones and those of another life of the machine
/// are left out.
pub(crate) fn open(config: &PipelineConfig, node: NodeId, boot: BootId) -> Vec<Arc<Ring>> {
    let machine = machine_life();
    let mut rings: Vec<Arc<Ring>> = candidates(config)
        .iter()
        .flat_map(|dir| files(dir))
        .filter(|&(_, owner, of)| owner == node && of == boot)
        .filter_map(|(path, _, _)| Ring::adopt(Mapping::open(&path).ok()?, machine))
        .filter(|ring| ring.id().node == node && ring.id().boot == boot)
        .map(Arc::new)
        .collect();
    rings.sort_by_key(|ring| ring.id().core);
    rings.dedup_by_key(|ring| ring.id().core);
    rings
}

/// Removes the ring files of a boot, as far as possible: what stays is removed by a later boot.
/// A directory that is empty then goes too, so that none is left in RAM.
pub(crate) fn remove(config: &PipelineConfig, node: NodeId, boot: BootId) {
    for dir in candidates(config) {
        remove_in(&dir, node, boot);
        if files(&dir).is_empty() {
            let _ = fs::remove_file(dir.join(OWNER));
            // Fails if it holds anything else, and that is right.
            let _ = fs::remove_dir(dir);
        }
    }
}

fn remove_in(dir: &Path, node: NodeId, boot: BootId) {
    for (path, owner, of) in files(dir) {
        if owner == node && of == boot {
            let _ = fs::remove_file(path);
        }
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, NodeId, BootId)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let (node, boot) = parse(entry.file_name().to_str()?)?;
            Some((entry.path(), node, boot))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_found_again_by_node_and_boot() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = PipelineConfig::new(dir.path(), 2);
        config.ring_dir = Some(dir.path().join("rings"));
        let node = NodeId(5);
        let (rings, place) = create(&config, node, BootId(9)).expect("rings");
        assert_eq!(place, config.ring_dir);
        let owner = place.clone().expect("a directory").join(OWNER);
        let data_dir = fs::canonicalize(dir.path()).expect("it is there");
        assert_eq!(fs::read_link(owner).expect("a link"), data_dir);
        assert_eq!(rings.len(), 2);
        create(&config, node, BootId(3)).expect("rings");
        create(&config, NodeId(6), BootId(4)).expect("rings");
        assert_eq!(boots(&config, node), [BootId(3), BootId(9)]);
        let found = open(&config, node, BootId(9));
        assert_eq!(found.iter().map(|ring| ring.id().core).collect::<Vec<_>>(), [0, 1]);
        remove(&config, node, BootId(9));
        assert_eq!(boots(&config, node), [BootId(3)]);
        assert!(open(&config, node, BootId(9)).is_empty());
        remove(&config, node, BootId(3));
        let place = place.expect("a directory");
        assert!(place.exists(), "the other node's rings are in it");
        remove(&config, NodeId(6), BootId(4));
        assert!(!place.exists(), "an empty one goes");
    }

    #[test]
    fn a_directory_of_somebody_else_or_a_link_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().join("real");
        let link = dir.path().join("link");
        fs::create_dir(&real).expect("a directory");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        assert_eq!(private_dir(&link).expect_err("a link").kind(), io::ErrorKind::PermissionDenied);
        fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).expect("a mode");
        private_dir(&real).expect("ours is made private");
        let mode = fs::metadata(&real).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn without_a_place_for_files_rings_are_in_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = PipelineConfig::new(dir.path(), 1);
        config.ring_dir = Some(dir.path().join("no").join("such").join("parent"));
        let (rings, place) = create(&config, NodeId(1), BootId(1)).expect("rings");
        assert_eq!((rings.len(), place), (1, None));
        assert!(boots(&config, NodeId(1)).is_empty());
    }
}
