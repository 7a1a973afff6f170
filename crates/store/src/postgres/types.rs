//! Our values as PostgreSQL stores them.

use bytes::{BufMut, BytesMut};
use shunt_domain::Timestamp;
use shunt_domain::ring::Place;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

type AnyError = Box<dyn std::error::Error + Sync + Send>;

/// Microseconds in a millisecond: the places that links of one millisecond can have.
pub(super) const PER_MILLI: i64 = 1_000;

/// Milliseconds from 2000-01-01, where PostgreSQL begins to count, back to 1970-01-01.
const EPOCH_MILLIS: i64 = 946_684_800_000;

/// The instants that a `timestamptz` can hold, with room to spare: some 4,400 years before 1970,
/// 142,000 after. The interface takes the years up to 9999.
const MILLIS: std::ops::RangeInclusive<i64> = -(1 << 47)..=1 << 52;

/// A `timestamptz`: microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Micros(pub(super) i64);

impl Micros {
    /// The first microsecond of an instant of ours.
    pub(super) fn first_of(at: Timestamp) -> Self {
        Self(at.as_millis().clamp(*MILLIS.start(), *MILLIS.end()) * PER_MILLI)
    }

    /// The millisecond it lies in.
    pub(super) const fn millis(self) -> i64 {
        self.0.div_euclid(PER_MILLI)
    }

    /// The instant as we know it.
    pub(super) const fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.millis())
    }
}

impl ToSql for Micros {
    fn to_sql(&self, _ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        out.put_i64(self.0.saturating_sub(EPOCH_MILLIS * PER_MILLI));
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_ty: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
        let bytes: [u8; 8] = raw.try_into()?;
        // `infinity` and its opposite are the ends of the range.
        Ok(Self(i64::from_be_bytes(bytes).saturating_add(EPOCH_MILLIS * PER_MILLI)))
    }

    accepts!(TIMESTAMPTZ);
}

/// A `uuid` that holds a place on the ring: both sort as 128-bit numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlaceBits(pub(super) Place);

impl ToSql for PlaceBits {
    fn to_sql(&self, _ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        out.put_u128(self.0.0);
        Ok(IsNull::No)
    }

    accepts!(UUID);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for PlaceBits {
    fn from_sql(_ty: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
        let bytes: [u8; 16] = raw.try_into()?;
        Ok(Self(Place(u128::from_be_bytes(bytes))))
    }

    accepts!(UUID);
}

/// A text that is looked for by `LIKE`, with everything in it taken literally.
pub(super) fn like(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_come_back() {
        for millis in [0, -1, 1, 1_795_305_600_123, -62_135_596_800_000, 253_402_207_200_999] {
            let micros = Micros::first_of(Timestamp::from_millis(millis));
            assert_eq!(micros.timestamp().as_millis(), millis);
            assert_eq!(Micros(micros.0 + 999).millis(), millis);
            let mut raw = BytesMut::new();
            micros.to_sql(&Type::TIMESTAMPTZ, &mut raw).unwrap();
            assert_eq!(Micros::from_sql(&Type::TIMESTAMPTZ, &raw).unwrap(), micros);
        }
        // 2000-01-01 is 0 on the wire.
        let mut raw = BytesMut::new();
        Micros(946_684_800_000_000).to_sql(&Type::TIMESTAMPTZ, &mut raw).unwrap();
        assert_eq!(raw.as_ref(), [0; 8]);
        for end in [i64::MIN, i64::MAX] {
            let micros = Micros::first_of(Timestamp::from_millis(end));
            assert_eq!(micros.0.signum(), end.signum());
        }
    }

    #[test]
    fn patterns_are_literal() {
        assert_eq!(like("50%_\\x"), "%50\\%\\_\\\\x%");
    }
}
