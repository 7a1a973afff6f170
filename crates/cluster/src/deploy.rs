//! The configuration files that `deploy/` ships, and what the kit changes in them: the servers of
//! tests and of the local cluster start from those very files.
//!
//! What differs from machine to machine stands in them between `# begin NAME` and `# end NAME`.
//! The kit replaces these blocks and nothing else. This was preferred to placeholders, because the
//! files stay good as they are, and to overriding at the end, because HAProxy's can't be overridden.

use anyhow::{Result, bail};

/// `deploy/pgbouncer/pgbouncer.ini`.
pub const PGBOUNCER: &str = include_str!("../../../deploy/pgbouncer/pgbouncer.ini");

/// `deploy/redis/redis.conf`.
pub const REDIS: &str = include_str!("../../../deploy/redis/redis.conf");

/// `deploy/haproxy/haproxy.cfg`.
pub const HAPROXY: &str = include_str!("../../../deploy/haproxy/haproxy.cfg");

/// Replaces every block of `file` by the text of its name.
///
/// # Errors
/// When the blocks of the file are not exactly those named, in any order: one that was forgotten
/// would make a test server use this machine's own places.
pub fn fill(file: &str, blocks: &[(&str, String)]) -> Result<String> {
    let mut filled = String::with_capacity(file.len());
    let mut left: Vec<_> = blocks.iter().collect();
    let mut lines = file.lines();
    while let Some(line) = lines.next() {
        filled.push_str(line);
        filled.push('\n');
        let Some(name) = line.trim_start().strip_prefix("# begin ") else { continue };
        let Some(at) = left.iter().position(|(known, _)| *known == name) else {
            bail!("nobody fills the block {name} (or it is there twice)");
        };
        filled.push_str(left.swap_remove(at).1.trim_end_matches('\n'));
        filled.push('\n');
        let end = format!("# end {name}");
        let Some(end) = lines.find(|line| line.trim_start() == end) else {
            bail!("the block {name} has no end");
        };
        filled.push_str(end);
        filled.push('\n');
    }
    if let Some((name, _)) = left.first() {
        bail!("the file has no block {name}");
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "a\n  # begin x\n  old\n  older\n  # end x\nb\n# begin y\n# end y\n";

    fn with(names: &[&str]) -> Result<String> {
        let blocks: Vec<_> = names.iter().map(|name| (*name, format!("new {name}\n"))).collect();
        fill(FILE, &blocks)
    }

    #[test]
    fn blocks_are_replaced_and_all_else_is_kept() {
        let expected = "a\n  # begin x\nnew x\n  # end x\nb\n# begin y\nnew y\n# end y\n";
        assert_eq!(with(&["y", "x"]).unwrap(), expected);
    }

    #[test]
    fn a_block_that_is_forgotten_unknown_or_open_is_an_error() {
        assert!(with(&["x"]).unwrap_err().to_string().contains("block y"));
        assert!(with(&["x", "y", "z"]).unwrap_err().to_string().contains("block z"));
        let open = fill("# begin x\nold\n", &[("x", String::new())]);
        assert!(open.unwrap_err().to_string().contains("no end"));
    }
}
