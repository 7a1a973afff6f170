//! After a start: what earlier boots left on their rings goes into the spool under their own
//! numbers, and each of them is closed in the ledger.
//!
//! Invariants:
//! - boots are recovered in order and each is closed, durably, before the next one's frames
//!   begin; so at any time only the boot of the spool's last frame can be open, and being killed
//!   during recovery only means doing the rest of it next time;
//! - an event is taken from a ring only behind the position that the last frame names: once;
//! - ring files are removed only after their boot's closing frame is durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use shunt_domain::ports::{BootId, NodeId};

use super::drain::Drain;
use super::segments::SpoolDir;
use crate::config::PipelineConfig;
use crate::frame::{BootState, Frame, MAGIC, PEEK, promised_len};
use crate::ring::files;

/// The last good frame of the spool, by order, with its segment's number. Reads the newest segment, and older ones only
/// while that has none.
///
/// # Errors
/// The operating system's.
pub(crate) fn last_state(dir: &SpoolDir, node: NodeId) -> io::Result<Option<(u64, BootState)>> {
    for (number, len) in dir.segments()?.into_iter().rev() {
        let file = File::open(dir.segment_path(number))?;
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        if let Some(state) = last_frame(&bytes, node) {
            // What a killed process had written but not synced counts from here on.
            rustix::fs::fdatasync(&file)?;
            return Ok(Some((number, state)));
        }
    }
    Ok(None)
}

/// The last good frame of `node` in a segment's bytes.
fn last_frame(bytes: &[u8], node: NodeId) -> Option<BootState> {
    let mut last = None;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..)
        && let Some(found) = find_magic(rest)
    {
        at += found;
        let frame = bytes[at..]
            .first_chunk::<PEEK>()
            .and_then(|peek| promised_len(peek).ok())
            .and_then(|len| bytes.get(at..at + len))
            .and_then(|frame| Some((Frame::parse(frame).ok()?, frame.len())))
            .filter(|(frame, _)| frame.state.node == node);
        match frame {
            Some((frame, len)) => {
                last = Some(frame.state);
                at += len;
            }
            None => at += 1,
        }
    }
    last
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(&MAGIC) {
        return Some(0);
    }
    bytes.windows(MAGIC.len()).position(|window| window == MAGIC)
}

/// The boots to recover before `current`, in order, each with its way to go on.
pub(crate) fn open_boots(
    config: &PipelineConfig,
    node: NodeId,
    current: BootId,
    last: Option<BootState>,
) -> Vec<Drain> {
    let closed_up_to = match &last {
        Some(state) if state.closed => Some(state.boot),
        // Boots before the one of the last frame are closed, or it could not have begun.
        Some(state) => state.boot.0.checked_sub(1).map(BootId),
        None => None,
    };
    let mut drains = Vec::new();
    let with_frames = last.filter(|state| !state.closed);
    let mut boots = files::boots(config, node);
    boots.extend(with_frames.as_ref().map(|state| state.boot));
    boots.sort_unstable();
    boots.dedup();
    for boot in boots.into_iter().filter(|&boot| boot < current) {
        if closed_up_to.is_some_and(|closed| boot <= closed) {
            // Its closing frame was durable; only the files were left.
            files::remove(config, node, boot);
            continue;
        }
        let rings = files::open(config, node, boot);
        let known = with_frames.clone().filter(|state| state.boot == boot);
        if rings.is_empty() && known.is_none() {
            // Killed while it made its rings: it never numbered anything.
            files::remove(config, node, boot);
            continue;
        }
        let fresh = known.is_none();
        let state = known.unwrap_or_else(|| BootState::new(node, boot, 0));
        let mut drain = Drain::new(state, fresh, &rings);
        if drain.rings() < drain.state().cores.len() {
            drain.mark_unknown();
        }
        drains.push(drain);
    }
    drains
}
