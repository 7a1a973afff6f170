use proptest::prelude::*;

use super::*;

fn sample() -> Click<'static> {
    Click {
        domain: DomainId(7),
        code: "aZ_9-xY",
        at: Timestamp::from_millis(1_795_305_600_123),
        kind: ClickKind::Served,
        flags: ClickFlags::PREFETCH.with(ClickFlags::GPC),
        visitor: 0x0123_4567_89ab_cdef,
        network: Network::V4([203, 0, 113]),
        referrer: "news.example",
        user_agent: "Mozilla/5.0 (X11)",
        language: "de-AT",
        utm: "utm_source=a&utm_medium=b",
        rule: 3,
    }
}

fn encoded(click: &Click<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    click.encode(&mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes were put together by hand from the table in the module's head (with Python's
/// `struct.pack`), not by running the encoder.
#[test]
fn version_1_is_pinned() {
    let golden = concat!(
        "01",
        "07",
        "07000000",
        "615a5f392d7859",
        "7b748d00a2010000",
        "efcdab8967452301",
        "0500",
        "0300",
        "00",
        "01",
        "cb0071000000",
        "0000",
        "0c",
        "05",
        "1100",
        "1900",
        "00",
        "00",
        "0000",
        "6e6577732e6578616d706c65",
        "4d6f7a696c6c612f352e30202858313129",
        "64652d4154",
        "75746d5f736f757263653d612675746d5f6d656469756d3d62",
    );
    assert_eq!(hex(&encoded(&sample())), golden);
    assert_eq!(decode(&encoded(&sample())), Ok(sample()));
}

#[test]
fn version_1_of_the_barest_head_request_is_pinned() {
    let click = Click {
        domain: DomainId(0),
        code: "a",
        at: Timestamp::from_millis(-1),
        kind: ClickKind::Head,
        flags: ClickFlags::default(),
        visitor: 0,
        network: Network::V6([0x20, 1, 0xd, 0xb8, 0, 1]),
        referrer: "",
        user_agent: "",
        language: "",
        utm: "",
        rule: 0,
    };
    let golden = concat!(
        "01",
        "01",
        "00000000",
        "61",
        "ffffffffffffffff",
        "0000000000000000",
        "0000",
        "0000",
        "01",
        "02",
        "20010db80001",
        "0000",
        "00",
        "00",
        "0000",
        "0000",
        "00",
        "00",
        "0000",
    );
    assert_eq!(hex(&encoded(&click)), golden);
    assert_eq!(decode(&encoded(&click)), Ok(click));
}

/// What a later writer of version 1 adds (a place, an extension) does not disturb this reader.
#[test]
fn room_for_place_and_extension_is_kept() {
    let mut bytes = encoded(&sample());
    let fixed = HEAD + 7;
    bytes[fixed + 28..fixed + 30].copy_from_slice(b"AT");
    bytes[fixed + 36] = 4;
    bytes[fixed + 37] = 5;
    bytes[fixed + 38] = 3;
    bytes.extend_from_slice("WienLinz!".as_bytes());
    bytes.extend_from_slice(&[0xff, 0, 0x80]);
    assert_eq!(decode(&bytes), Ok(sample()));
}

#[test]
fn an_unknown_version_is_an_error_of_its_own() {
    let mut bytes = encoded(&sample());
    for version in (0..=255).filter(|&v| v != VERSION) {
        bytes[0] = version;
        assert_eq!(decode(&bytes), Err(ClickDecodeError::Version(version)));
    }
    assert_eq!(decode(&[]), Err(ClickDecodeError::Length));
}

#[test]
fn texts_are_cut_at_character_boundaries() {
    let user_agent = format!("{}ä", "x".repeat(MAX_USER_AGENT - 1));
    let utm = "€".repeat(200);
    let referrer = "r".repeat(300);
    let language = "l".repeat(36);
    let code = "c".repeat(128);
    let click = Click {
        code: &code,
        user_agent: &user_agent,
        utm: &utm,
        referrer: &referrer,
        language: &language,
        ..sample()
    };
    let bytes = encoded(&click);
    assert!(bytes.len() <= Click::MAX_ENCODED);
    let back = decode(&bytes).expect("what was encoded can be decoded");
    assert_eq!(back.user_agent.len(), MAX_USER_AGENT - 1);
    assert_eq!(back.utm, "€".repeat(170));
    assert_eq!(back.referrer.len(), MAX_REFERRER);
    assert_eq!(back.language.len(), MAX_LANGUAGE);
    assert_eq!(back.code, code);
}

#[test]
fn every_shorter_or_longer_text_is_refused() {
    let bytes = encoded(&sample());
    for len in 0..bytes.len() {
        assert_eq!(decode(&bytes[..len]).err(), Some(ClickDecodeError::Length), "{len} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(decode(&longer), Err(ClickDecodeError::Length));
}

#[test]
fn bad_fields_are_named() {
    let fixed = HEAD + 7;
    let changed = |at: usize, value: u8| {
        let mut bytes = encoded(&sample());
        bytes[at] = value;
        decode(&bytes).err()
    };
    assert_eq!(changed(fixed + 20, 2), Some(ClickDecodeError::Kind(2)));
    assert_eq!(changed(fixed + 21, 3), Some(ClickDecodeError::Network(3)));
    assert_eq!(changed(fixed + 30, 254), Some(ClickDecodeError::Limit));
    assert_eq!(changed(fixed + FIXED, 0xff), Some(ClickDecodeError::Text));
    assert_eq!(changed(HEAD, 0xff), Some(ClickDecodeError::Text));
}

#[test]
fn the_key_is_found_without_decoding() {
    let bytes = encoded(&sample());
    assert_eq!(key_of(&bytes), Some((DomainId(7), &b"aZ_9-xY"[..])));
    assert_eq!(key_of(&bytes[..12]), None);
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(
        domain in any::<u32>(),
        code in "[0-9A-Za-z_-]{1,128}",
        at in any::<i64>(),
        head in any::<bool>(),
        flags in any::<u16>(),
        visitor in any::<u64>(),
        network in prop_oneof![
            Just(Network::Unknown),
            any::<[u8; 3]>().prop_map(Network::V4),
            any::<[u8; 6]>().prop_map(Network::V6),
        ],
        referrer in "[a-z.]{0,253}",
        user_agent in "\\PC{0,120}",
        language in "[a-zA-Z-]{0,35}",
        utm in "\\PC{0,120}",
        rule in any::<u16>(),
    ) {
        let click = Click {
            domain: DomainId(domain),
            code: &code,
            at: Timestamp::from_millis(at),
            kind: if head { ClickKind::Head } else { ClickKind::Served },
            flags: ClickFlags(flags),
            visitor,
            network,
            referrer: &referrer,
            user_agent: &user_agent,
            language: &language,
            utm: &utm,
            rule,
        };
        let bytes = encoded(&click);
        prop_assert_eq!(decode(&bytes), Ok(click));
    }

    #[test]
    fn decoding_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        let _ = decode(&bytes);
    }
}
