//! Values with units: a number of bytes and a length of time, each read from text, never from a bare number.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text that is no value of the unit wanted. Nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct InvalidUnit {
    /// What was given.
    pub text: String,
    /// What is read, as a phrase.
    pub wanted: &'static str,
}

/// Cuts `12.5ms` into its whole part, its decimals and its unit. Digits only: no sign, no space, no exponent.
fn split_number(text: &str) -> Option<(u128, &str, &str)> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let (whole, decimals) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, decimals)) => (whole, decimals),
        None => (number, ""),
    };
    decimals.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    Some((whole.parse().ok()?, decimals, unit))
}

/// A number of bytes, at most `u64::MAX`. Written with a unit: `B`, the binary `KiB MiB GiB TiB` or the decimal
/// `KB MB GB TB`, as in `16MiB`; zero may stand alone. Displayed in the largest binary unit that holds it exactly, so what
/// is displayed reads back as the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(u64);

const BINARY: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 5] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];

impl ByteSize {
    const WANTED: &str = "a size with a unit (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB), such as \"16MiB\"";

    /// That many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// That many KiB (1,024 bytes); at most the largest that can be told.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// That many MiB (1,024 KiB); at most the largest that can be told.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// That many GiB (1,024 MiB); at most the largest that can be told.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; the largest length where this machine's is smaller.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = BINARY.iter().find(|(_, size)| self.0 != 0 && self.0.is_multiple_of(*size));
        let (unit, size) = exact.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit { text: text.to_owned(), wanted: Self::WANTED };
        let (whole, decimals, unit) = split_number(text).ok_or_else(refuse)?;
        if !decimals.is_empty() {
            return Err(refuse());
        }
        if whole == 0 && unit.is_empty() {
            return Ok(Self(0));
        }
        let size = BINARY.iter().chain(&DECIMAL).find(|(name, _)| *name == unit).ok_or_else(refuse)?.1;
        u64::try_from(whole).ok().and_then(|whole| whole.checked_mul(size)).map(Self).ok_or_else(refuse)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

/// A length of time, to the nanosecond. Written with a unit: `ns us ms s min h d`, as in `500ms` or `37.5ms`; zero may stand
/// alone. Displayed in the largest unit that holds it exactly, so what is displayed reads back as the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

const TIMES: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Span {
    const WANTED: &str = "a length of time with a unit (ns, us, ms, s, min, h, d), such as \"500ms\"";

    /// That many microseconds.
    #[must_use]
    pub const fn micros(count: u64) -> Self {
        Self(Duration::from_micros(count))
    }

    /// That many milliseconds.
    #[must_use]
    pub const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    /// That many seconds.
    #[must_use]
    pub const fn secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The same length for the standard library.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// The length in whole milliseconds, rounded down; the largest that can be told where it is longer.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let exact = TIMES.iter().find(|(_, length)| nanos != 0 && nanos.is_multiple_of(*length));
        let (unit, length) = exact.copied().unwrap_or(("s", 1_000_000_000));
        write!(f, "{}{unit}", nanos / length)
    }
}

impl FromStr for Span {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit { text: text.to_owned(), wanted: Self::WANTED };
        let (whole, decimals, unit) = split_number(text).ok_or_else(refuse)?;
        if whole == 0 && decimals.is_empty() && unit.is_empty() {
            return Ok(Self(Duration::ZERO));
        }
        let length = TIMES.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?.1;
        nanos(whole, decimals, length).map(Self).ok_or_else(refuse)
    }
}

/// `whole.decimals` times `length` nanoseconds, where that is a whole number of nanoseconds and can be told.
fn nanos(whole: u128, decimals: &str, length: u128) -> Option<Duration> {
    if decimals.len() > 15 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let part = if decimals.is_empty() { 0 } else { decimals.parse::<u128>().ok()? } * length;
    if !part.is_multiple_of(scale) {
        return None;
    }
    let nanos = whole.checked_mul(length)?.checked_add(part / scale)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?))
}

impl TryFrom<String> for Span {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// A length of time that the daemon derives by itself (`auto`) unless one is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AutoSpan {
    /// Derived from what is measured.
    #[default]
    Auto,
    /// As written.
    Fixed(Span),
}

impl AutoSpan {
    /// The length written, or `derived` where none is.
    #[must_use]
    pub fn or(self, derived: Duration) -> Duration {
        match self {
            Self::Auto => derived,
            Self::Fixed(span) => span.duration(),
        }
    }
}

impl fmt::Display for AutoSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(span) => span.fmt(f),
        }
    }
}

impl FromStr for AutoSpan {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Fixed) }
    }
}

impl TryFrom<String> for AutoSpan {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        text.parse()
    }
}

impl From<AutoSpan> for String {
    fn from(span: AutoSpan) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit_and_shown_in_the_largest_exact_one() {
        for (text, bytes, shown) in
            [("16MiB", 16 << 20, "16MiB"), ("1024KiB", 1 << 20, "1MiB"), ("1MB", 1_000_000, "1000000B"), ("0", 0, "0B"), ("7B", 7, "7B")]
        {
            let size: ByteSize = text.parse().expect(text);
            assert_eq!((size.as_u64(), size.to_string().as_str()), (bytes, shown));
        }
    }

    #[test]
    fn a_size_without_a_unit_or_with_a_wrong_one_is_refused() {
        for text in ["16", "", "MiB", "1.5GiB", "16mib", "16 MiB", "-1B", "+1B", "16MiBs", "99999999999TiB", "1..B", "1e3B"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_with_their_unit_and_decimals() {
        for (text, nanos, shown) in [
            ("500ms", 500_000_000, "500ms"),
            ("37.5ms", 37_500_000, "37500us"),
            ("10min", 600_000_000_000, "10min"),
            ("0.1ms", 100_000, "100us"),
            ("24h", 86_400_000_000_000, "1d"),
            ("0", 0, "0s"),
        ] {
            let span: Span = text.parse().expect(text);
            assert_eq!((span.duration().as_nanos(), span.to_string().as_str()), (nanos, shown));
        }
    }

    #[test]
    fn a_time_without_a_unit_or_finer_than_a_nanosecond_is_refused() {
        for text in ["500", "ms", "", "1.ms", ".5ms", "0.5ns", "1m", "1h30min", "-1s", "1S", "0.0", "99999999999999999999d", "1.2.3s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_of_more_nanoseconds_than_64_bits_hold_reads_back() {
        let span = Span::from(Duration::new(18_446_744_073, 709_551_616));
        assert_eq!(span.to_string().parse(), Ok(span));
    }

    #[test]
    fn auto_is_a_word_of_its_own() {
        assert_eq!("auto".parse(), Ok(AutoSpan::Auto));
        assert_eq!("20ms".parse(), Ok(AutoSpan::Fixed(Span::millis(20))));
        assert!("Auto".parse::<AutoSpan>().is_err());
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_it_was_shown(bytes: u64) {
            prop_assert_eq!(ByteSize::bytes(bytes).to_string().parse(), Ok(ByteSize::bytes(bytes)));
        }

        #[test]
        fn a_round_size_reads_back_as_it_was_shown(count in 0_u64..1 << 20, shift in 0_u32..44) {
            let size = ByteSize::bytes(count << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn a_time_reads_back_as_it_was_shown(seconds: u64, nanos in 0_u32..1_000_000_000) {
            let span = Span::from(Duration::new(seconds, nanos));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_makes_a_unit_panic(text in "\\PC{0,24}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<AutoSpan>();
        }
    }
}
