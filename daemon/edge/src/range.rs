//! `Range` of one part (RFC 9110 section 14).

/// What a `Range` field asks of a value of known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, or one that a server may ignore (section 14.2): another unit, several parts, a broken syntax.
    Whole,
    /// The bytes `from..to`; never empty.
    Part {
        /// The first byte.
        from: usize,
        /// One past the last.
        to: usize,
    },
    /// Bytes that are not there: 416.
    Outside,
}

/// What the field asks of a value of `length` bytes.
pub(crate) fn wanted(field: &[u8], length: usize) -> Wanted {
    let Some(spec) = std::str::from_utf8(field).ok().and_then(single) else { return Wanted::Whole };
    match spec {
        Spec::From(first) if first >= length => Wanted::Outside,
        Spec::From(first) => Wanted::Part { from: first, to: length },
        Spec::Between(first, last) if first > last => Wanted::Whole,
        Spec::Between(first, _) if first >= length => Wanted::Outside,
        Spec::Between(first, last) => Wanted::Part { from: first, to: last.saturating_add(1).min(length) },
        Spec::Last(0) => Wanted::Outside,
        Spec::Last(_) if length == 0 => Wanted::Whole,
        Spec::Last(count) => Wanted::Part { from: length.saturating_sub(count), to: length },
    }
}

enum Spec {
    From(usize),
    Between(usize, usize),
    Last(usize),
}

fn single(field: &str) -> Option<Spec> {
    let (unit, set) = field.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    match (first, last) {
        ("", last) => number(last).map(Spec::Last),
        (first, "") => number(first).map(Spec::From),
        (first, last) => Some(Spec::Between(number(first)?, number(last)?)),
    }
}

/// Digits only; a number too large to tell is the largest.
fn number(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 9110 section 14.1.2, for a representation of 10,000 bytes.
        assert_eq!(wanted(b"bytes=0-499", 10_000), Wanted::Part { from: 0, to: 500 });
        assert_eq!(wanted(b"bytes=500-999", 10_000), Wanted::Part { from: 500, to: 1000 });
        assert_eq!(wanted(b"bytes=-500", 10_000), Wanted::Part { from: 9500, to: 10_000 });
        assert_eq!(wanted(b"bytes=9500-", 10_000), Wanted::Part { from: 9500, to: 10_000 });
        assert_eq!(wanted(b"bytes=0-0,-1", 10_000), Wanted::Whole);
    }

    #[test]
    fn a_range_beyond_the_end_is_cut_and_one_after_it_is_outside() {
        assert_eq!(wanted(b"bytes=2-99999999999999999999999", 4), Wanted::Part { from: 2, to: 4 });
        assert_eq!(wanted(b"bytes=-99", 4), Wanted::Part { from: 0, to: 4 });
        assert_eq!(wanted(b"bytes=4-", 4), Wanted::Outside);
        assert_eq!(wanted(b"bytes=-0", 4), Wanted::Outside);
        assert_eq!(wanted(b"bytes=0-", 0), Wanted::Outside);
        assert_eq!(wanted(b"bytes=-5", 0), Wanted::Whole);
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        for field in ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=3-1", "items=0-1", "bytes=+1-2", "bytes=1-2-3", "bytes=0x1-"] {
            assert_eq!(wanted(field.as_bytes(), 10), Wanted::Whole, "{field}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_outside(field in "(bytes=)?[0-9]{0,6}-?[0-9]{0,6}", length in 0usize..100_000) {
            if let Wanted::Part { from, to } = wanted(field.as_bytes(), length) {
                prop_assert!(from < to && to <= length);
            }
        }
    }
}
