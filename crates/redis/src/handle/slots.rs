//! Which node of a cluster has which keys.
//!
//! Redis Cluster specification, "Key distribution model": 16,384 slots, a key's slot is the CRC-16
//! (XMODEM) of the key, or of what stands in its first pair of braces.

use redis::Value;

use crate::options::Address;

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS
}

/// The part of a key that decides its slot.
fn tag(key: &[u8]) -> &[u8] {
    let inner = || {
        let start = key.iter().position(|byte| *byte == b'{')? + 1;
        let rest = key.get(start..)?;
        rest.get(..rest.iter().position(|byte| *byte == b'}')?)
    };
    inner().filter(|tag| !tag.is_empty()).unwrap_or(key)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

/// A run of slots and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
    pub(super) replicas: Vec<Address>,
}

/// Reads the answer of `CLUSTER SLOTS`. A node that does not know its own address leaves it empty:
/// then it is the one that was asked. `None` for what is no such answer, or covers nothing.
pub(super) fn parse(answer: &Value, asked: &Address) -> Option<Vec<Run>> {
    let Value::Array(rows) = answer else { return None };
    let runs: Option<Vec<Run>> = rows
        .iter()
        .map(|row| {
            let Value::Array(row) = row else { return None };
            let [Value::Int(first), Value::Int(last), nodes @ ..] = row.as_slice() else {
                return None;
            };
            let mut nodes = nodes.iter().map(|node| address(node, asked));
            Some(Run {
                first: u16::try_from(*first).ok().filter(|slot| *slot < SLOTS)?,
                last: u16::try_from(*last).ok().filter(|slot| *slot < SLOTS)?,
                master: nodes.next()??,
                replicas: nodes.collect::<Option<_>>()?,
            })
        })
        .collect();
    runs.filter(|runs| !runs.is_empty())
}

fn address(node: &Value, asked: &Address) -> Option<Address> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => "",
    };
    let host = if host.is_empty() || host == "?" { &asked.host } else { host };
    Some(Address { host: host.to_owned(), port: u16::try_from(*port).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The specification's own check value.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As `CLUSTER KEYSLOT` answers.
        for (key, slot) in [("foo", 12_182), ("somekey", 11_058), ("foo{hash_tag}", 2_515)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(tag(b"foo{bar"), b"foo{bar");
    }

    #[test]
    fn a_map_is_read_and_nonsense_is_not() {
        let asked = Address { host: "h".into(), port: 1 };
        let node = |host: &[u8], port| {
            Value::Array(vec![Value::BulkString(host.to_vec()), Value::Int(port), Value::Nil])
        };
        let row = |first, last| {
            Value::Array(vec![Value::Int(first), Value::Int(last), node(b"", 7), node(b"r", 8)])
        };
        let runs = parse(&Value::Array(vec![row(0, 5), row(6, 16_383)]), &asked).unwrap();
        assert_eq!((runs[1].first, runs[1].last), (6, 16_383));
        assert_eq!(runs[0].master, Address { host: "h".into(), port: 7 });
        assert_eq!(runs[0].replicas, [Address { host: "r".into(), port: 8 }]);
        for bad in [Value::Nil, Value::Array(vec![]), Value::Array(vec![row(0, 16_384)])] {
            assert_eq!(parse(&bad, &asked), None);
        }
    }
}
