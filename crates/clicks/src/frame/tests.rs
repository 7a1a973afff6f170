use super::*;
use crate::tests::support::{click, hex};

/// A frame with two events of one lane and one of another.
fn sample() -> (Vec<u8>, BootState) {
    let mut state = BootState::new(NodeId(0x0a), BootId(0x0b), 2);
    state.frame = 3;
    state.at = Timestamp::from_millis(0x0123_4567);
    state.unknown = true;
    state.lanes[5] = 12;
    state.lanes[63] = 1;
    state.cores[0] = CoreState { position: 40, numbered: 15, lost: 2 };
    state.cores[1] = CoreState { position: 1, numbered: 3, lost: 0 };
    let mut counts = [0; Lane::COUNT];
    let mut bytes = [0; Lane::COUNT];
    let mut frame = vec![0; header_len(2)];
    for (lane, code) in [(5, "one"), (5, "two"), (63, "three")] {
        let mut event = Vec::new();
        click(code, 1, "x").encode(&mut event);
        counts[lane] += 1;
        bytes[lane] += (PREFIX + event.len()) as u32;
        frame.extend_from_slice(&(event.len() as u16).to_le_bytes());
        frame.extend_from_slice(&event);
    }
    seal(&mut frame, &state, &counts, &bytes);
    (frame, state)
}

#[test]
fn a_frame_is_read_as_it_was_written() {
    let (bytes, state) = sample();
    let frame = Frame::parse(&bytes).expect("a frame");
    assert_eq!(frame.state, state);
    assert_eq!(frame.events(), 3);
    let records: Vec<_> = frame
        .records()
        .map(|r| (r.node.0, r.boot.0, r.lane.number(), r.first_seq, r.count, r.events().count()))
        .collect();
    assert_eq!(records, [(10, 11, 5, 10, 2, 2), (10, 11, 63, 0, 1, 1)]);
}

/// The fixed part was put together by hand from the module's table; the checksum with the
/// reference implementation of XXH3 over the bytes behind it.
#[test]
fn version_1_is_pinned() {
    let (bytes, _) = sample();
    let len = bytes.len() as u32;
    assert_eq!(hex(&bytes[..4]), "53484631");
    assert_eq!(bytes[4..8], len.to_le_bytes());
    assert_eq!(
        hex(&bytes[16..56]),
        "0100020002000000\
         0a000000000000000b000000000000000300000000000000\
         6745230100000000"
    );
    let lane = |number: usize| hex(&bytes[56 + number * 16..72 + number * 16]);
    assert_eq!(lane(0), "00".repeat(16));
    assert_eq!(lane(5), format!("0c0000000000000002000000{:02x}000000", 2 * (2 + 6 + 3 + 40 + 1)));
    assert_eq!(
        hex(&bytes[56 + 1024..56 + 1024 + 48]),
        "28000000000000000f000000000000000200000000000000\
         010000000000000003000000000000000000000000000000"
    );
    assert_eq!(bytes.len(), 56 + 1024 + 48 + 2 * 52 + 54);
}

#[test]
fn every_damaged_byte_and_every_cut_is_seen() {
    let (bytes, _) = sample();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert_eq!(Frame::parse(&damaged).err(), Some(FrameError::Damaged), "byte {at}");
        assert_eq!(Frame::parse(&bytes[..at]).err(), Some(FrameError::Damaged), "cut to {at}");
    }
}

#[test]
fn a_newer_format_is_named() {
    let (mut bytes, _) = sample();
    bytes[16] = 2;
    let sum = xxh3_64_with_seed(&bytes[16..], bytes.len() as u64);
    bytes[8..16].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(Frame::parse(&bytes).err(), Some(FrameError::Version(2)));
}

#[test]
fn the_ledger_balances() {
    let (_, mut state) = sample();
    state.unknown = false;
    // 18 numbered, 2 lost on a ring, 13 spooled (the sample left 3 in flight).
    let row = state.ledger(13);
    assert_eq!((row.served, row.lost, row.counted), (18, 2, 13));
    // Four events of damaged frames will never be counted.
    let row = state.ledger(9);
    assert_eq!((row.served, row.lost, row.counted), (18, 6, 9));
    // The rings are gone, and the last good frame is older than what was counted.
    state.unknown = true;
    let row = state.ledger(20);
    assert_eq!((row.served, row.lost, row.counted), (22, 2, 20));
}
