//! Header fields: what a request's say, and how an answer's are written.
//!
//! Writing goes through a buffer per thread that is cut into pieces, so that a header value costs no allocation of its own.

use std::cell::RefCell;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::header::{CACHE_CONTROL, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};
use isochrone_ident::{Key, Version};

use crate::command::{Fence, IdempotencyKey, Level, Matcher, NamespaceView, Preconditions, Receipt, Refusal};
use crate::path::{decode, encode};
use crate::problem::Problem;
use crate::session::SessionToken;

pub(crate) const ISOCHRONE_CONSISTENCY: HeaderName = HeaderName::from_static("isochrone-consistency");
pub(crate) const ISOCHRONE_REGION: HeaderName = HeaderName::from_static("isochrone-region");
pub(crate) const ISOCHRONE_AGE_MS: HeaderName = HeaderName::from_static("isochrone-age-ms");
pub(crate) const ISOCHRONE_SESSION: HeaderName = HeaderName::from_static("isochrone-session");
pub(crate) const ISOCHRONE_PATH: HeaderName = HeaderName::from_static("isochrone-path");
pub(crate) const ISOCHRONE_FENCE: HeaderName = HeaderName::from_static("isochrone-fence");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is the first answer to an earlier request, as Stripe's API does.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// No TTL may be longer than a hundred years, so that sums of times stay far from their types' ends.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

thread_local! {
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SCRATCH_BYTES));
}

const SCRATCH_BYTES: usize = 16 << 10;

/// A header value of what `write` writes, which must be visible ASCII.
pub(crate) fn value(write: impl FnOnce(&mut BytesMut)) -> HeaderValue {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.capacity() < 256 {
            *scratch = BytesMut::with_capacity(SCRATCH_BYTES);
        }
        write(scratch);
        HeaderValue::from_maybe_shared(scratch.split().freeze()).unwrap_or(HeaderValue::from_static(""))
    })
}

/// Writes a number in decimal digits.
pub(crate) fn put_decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

fn put_hex(out: &mut BytesMut, mut number: u128) {
    let mut digits = [0; 32];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// Writes a version as a strong validator, quotes included: the same text as `Display` gives.
pub(crate) fn put_etag(out: &mut BytesMut, version: &Version) {
    out.put_u8(b'"');
    put_hex(out, u128::from(version.hlc.0));
    out.put_u8(b'-');
    put_hex(out, version.node.0);
    out.put_u8(b'-');
    put_hex(out, u128::from(version.incarnation.0));
    out.put_u8(b'"');
}

/// Writes the validator of a key that is not a value: a strong one, of hexadecimal digits alone.
pub(crate) fn put_state_etag(out: &mut BytesMut, etag: u128) {
    out.put_u8(b'"');
    put_hex(out, etag);
    out.put_u8(b'"');
}

/// The receipt fields that every read and write answers with.
pub(crate) fn put_receipt(headers: &mut HeaderMap, receipt: &Receipt) {
    headers.insert(ISOCHRONE_CONSISTENCY, HeaderValue::from_static(receipt.consistency.as_str()));
    headers.insert(ISOCHRONE_REGION, value(|out| out.put_slice(receipt.region.as_str().as_bytes())));
    if let Some(age_ms) = receipt.age_ms {
        headers.insert(ISOCHRONE_AGE_MS, value(|out| put_decimal(out, age_ms)));
    }
    if let Some(session) = &receipt.session {
        headers.insert(ISOCHRONE_SESSION, value(|out| out.put_slice(session.as_bytes())));
    }
    if let Some(path) = &receipt.path {
        headers.insert(ISOCHRONE_PATH, value(|out| out.put_slice(path.as_bytes())));
    }
}

/// A field's text, where it is there once.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut fields = headers.get_all(name).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Problem::malformed(format!("the header field `{name}` is given twice")));
    }
    field.to_str().map(Some).map_err(|_| Problem::malformed(format!("the header field `{name}` holds something other than visible ASCII")))
}

/// What the client says that it has seen.
pub(crate) fn session(headers: &HeaderMap) -> Result<Option<SessionToken>, Problem> {
    let Some(text) = text(headers, &ISOCHRONE_SESSION)? else { return Ok(None) };
    let token = SessionToken::new(text.trim());
    token.map(Some).map_err(|e| Refusal::SessionTokenInvalid { detail: e.to_string().into() }.into())
}

/// The level that a request asks for by header or query; the query wins.
pub(crate) fn level(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Level>, Problem> {
    let Some(text) = query.map_or_else(|| text(headers, &ISOCHRONE_CONSISTENCY), |text| Ok(Some(text)))? else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|e: crate::command::InvalidLevel| Problem::malformed(e.to_string()))
}

/// What `If-Match` or `If-None-Match` lists; `None` when the field is absent. Weak validators and foreign ones match nothing: ours are all strong.
pub(crate) fn matcher(headers: &HeaderMap, name: &HeaderName) -> Option<Matcher> {
    tags(headers, name, version)
}

/// The same for a key that is not a value.
pub(crate) fn state_matcher(headers: &HeaderMap, name: &HeaderName) -> Option<Matcher<u128>> {
    tags(headers, name, state)
}

fn tags<T>(headers: &HeaderMap, name: &HeaderName, read: fn(&[u8], bool) -> Option<T>) -> Option<Matcher<T>> {
    let mut fields = headers.get_all(name).iter().map(HeaderValue::as_bytes).peekable();
    fields.peek()?;
    Some(listed(fields, *name == IF_NONE_MATCH, read))
}

/// What a list of entity tags matches; `weak`: as `If-None-Match` compares.
///
/// A `*` beside others is outside the grammar (RFC 9110 section 13.1.1). It is read so that the write is refused: as everything in `If-None-Match`, as
/// nothing in `If-Match`.
pub(crate) fn listed<'a, T>(lines: impl Iterator<Item = &'a [u8]>, weak: bool, read: fn(&[u8], bool) -> Option<T>) -> Matcher<T> {
    let (mut versions, mut count, mut is_any) = (Vec::new(), 0, false);
    for tag in lines.flat_map(members) {
        count += 1;
        is_any |= tag == b"*";
        versions.extend(read(tag, weak));
    }
    if is_any && (weak || count == 1) { Matcher::Any } else { Matcher::Versions(versions) }
}

/// The members of a list, trimmed; a comma inside an entity tag's quotes parts nothing.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    let parts = line.split(move |&b| {
        is_quoted ^= b == b'"';
        b == b',' && !is_quoted
    });
    parts.map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty())
}

/// The version that an entity tag names. `weak`: compare weakly (RFC 9110 section 8.8.3.2), so that `W/` is overlooked. A tag is compared letter by
/// letter, so that another spelling of the same numbers names nothing.
pub(crate) fn version(tag: &[u8], weak: bool) -> Option<Version> {
    let text = opaque(tag, weak)?;
    text.parse().ok().filter(|version: &Version| version.to_string() == text)
}

/// The state that an entity tag names, as [`put_state_etag`] writes it.
pub(crate) fn state(tag: &[u8], weak: bool) -> Option<u128> {
    let digits = opaque(tag, weak)?;
    let is_ours = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && (digits == "0" || !digits.starts_with('0'));
    if is_ours { u128::from_str_radix(digits, 16).ok() } else { None }
}

fn opaque(tag: &[u8], weak: bool) -> Option<&str> {
    let quoted = if weak { tag.strip_prefix(b"W/").unwrap_or(tag) } else { tag };
    std::str::from_utf8(quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()
}

/// All preconditions of a write.
pub(crate) fn preconditions(headers: &HeaderMap) -> Result<Preconditions, Problem> {
    Ok(Preconditions { if_match: matcher(headers, &IF_MATCH), if_none_match: matcher(headers, &IF_NONE_MATCH), fence: fence(headers)? })
}

fn fence(headers: &HeaderMap) -> Result<Option<Fence>, Problem> {
    let Some(field) = text(headers, &ISOCHRONE_FENCE)? else { return Ok(None) };
    let wrong = || {
        let form = "`Isochrone-Fence` is `{lock}={token}`: the lock's name percent-encoded as in its path, UTF-8 of 1 to";
        Problem::malformed(format!("{form} {} bytes, and the token a number", Key::BYTES_MAX))
    };
    field.rsplit_once('=').and_then(|(lock, token)| fence_of(lock.trim(), token.trim())).map(Some).ok_or_else(wrong)
}

fn fence_of(lock: &str, token: &str) -> Option<Fence> {
    let name = decode(lock.as_bytes())?;
    let name = std::str::from_utf8(&name).ok().filter(|name| (1..=Key::BYTES_MAX).contains(&name.len()))?;
    let digits = Some(token).filter(|token| token.bytes().all(|b| b.is_ascii_digit()))?;
    Some(Fence { lock: name.into(), token: digits.parse().ok()? })
}

/// A fence as its field says it.
pub(crate) fn fence_value(lock: &str, token: u64) -> HeaderValue {
    HeaderValue::try_from(format!("{}={token}", encode(lock.as_bytes()))).unwrap_or(HeaderValue::from_static(""))
}

/// The client's name for a write.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(field) = text(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    IdempotencyKey::new(field.trim()).map(Some).map_err(|e| Problem::malformed(e.to_string()))
}

/// The TTL that a write asks for: `?ttl=` first, then `Cache-Control: max-age`.
pub(crate) fn requested_ttl(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Duration>, Problem> {
    if let Some(text) = query {
        return duration(text).map(Some).ok_or_else(|| {
            Problem::malformed(format!("a ttl is a number and a unit, as in `60s` (ms, s, m, h, d), not `{}`", text.escape_debug()))
        });
    }
    for field in headers.get_all(CACHE_CONTROL) {
        for directive in field.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            if let Some(age) = max_age(directive) {
                return age.map(Some).ok_or_else(|| Problem::malformed("`Cache-Control: max-age` is a number of seconds"));
            }
        }
    }
    Ok(None)
}

/// `None`: another directive; `Some(None)`: this one, and broken.
fn max_age(directive: &[u8]) -> Option<Option<Duration>> {
    let text = std::str::from_utf8(directive).ok()?;
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if !name.trim().eq_ignore_ascii_case("max-age") {
        return None;
    }
    let digits = value.trim().trim_matches('"');
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    Some(is_number.then(|| Duration::from_secs(digits.parse().unwrap_or(u64::MAX))))
}

/// A duration as in `1500ms`, `60s`, `1h30m`: numbers with units, one after the other.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = None;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = &rest[letters..];
        sum = Some(count.checked_mul(millis)?.checked_add(sum.unwrap_or(0))?);
    }
    sum.map(Duration::from_millis)
}

/// The TTL that a write gets: what it asks for, else the namespace's default, else its maximum; a longer one than the maximum is refused.
pub(crate) fn effective_ttl(asked: Option<Duration>, view: &NamespaceView) -> Result<Option<Duration>, Problem> {
    let longest = view.ttl_max.unwrap_or(TTL_MAX).min(TTL_MAX);
    match asked {
        None => Ok(view.ttl_default.or(view.ttl_max)),
        Some(ttl) if ttl < Duration::from_millis(1) => {
            Err(Problem::malformed("a ttl is at least 1 ms; to remove the key at once, use DELETE"))
        }
        Some(ttl) if ttl > longest => {
            Err(Problem::malformed(format!("the ttl is longer than this namespace's `ttl_max`, {} seconds", longest.as_secs_f64())))
        }
        Some(ttl) => Ok(Some(ttl)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Mode;
    use isochrone_ident::{Hlc, Incarnation, NodeId};
    use proptest::prelude::*;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    fn view(ttl_default: Option<u64>, ttl_max: Option<u64>) -> NamespaceView {
        let seconds = |n: Option<u64>| n.map(Duration::from_secs);
        NamespaceView {
            mode: Mode::Eventual,
            evictable: false,
            ttl_default: seconds(ttl_default),
            ttl_max: seconds(ttl_max),
            value_bytes: 10,
        }
    }

    #[test]
    fn a_ttl_comes_from_the_query_first_and_then_from_cache_control() {
        let cached = headers(&[(CACHE_CONTROL, "no-transform, Max-Age=60")]);
        assert_eq!(requested_ttl(&cached, None).expect("parses"), Some(Duration::from_secs(60)));
        assert_eq!(requested_ttl(&cached, Some("5s")).expect("parses"), Some(Duration::from_secs(5)));
        assert_eq!(requested_ttl(&headers(&[(CACHE_CONTROL, "no-store")]), None).expect("parses"), None);
        assert!(requested_ttl(&headers(&[(CACHE_CONTROL, "max-age=soon")]), None).is_err());
    }

    #[test]
    fn a_duration_has_units() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "60", "s", "1.5s", "-1s", "1y", "99999999999999999999s", "1 s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_write_without_a_ttl_takes_the_default_or_the_maximum() {
        let s = |n| Some(Duration::from_secs(n));
        assert_eq!(effective_ttl(None, &view(None, None)).expect("fits"), None);
        assert_eq!(effective_ttl(None, &view(Some(5), Some(9))).expect("fits"), s(5));
        assert_eq!(effective_ttl(None, &view(None, Some(9))).expect("fits"), s(9));
        assert_eq!(effective_ttl(s(9), &view(Some(5), Some(9))).expect("fits"), s(9));
        assert!(effective_ttl(s(10), &view(Some(5), Some(9))).is_err());
        assert!(effective_ttl(Some(Duration::ZERO), &view(None, None)).is_err());
        assert!(effective_ttl(Some(Duration::MAX), &view(None, None)).is_err());
    }

    #[test]
    fn validators_of_others_match_nothing() {
        let foreign = headers(&[(IF_MATCH, r#""abc", W/"1-2-3""#)]);
        assert_eq!(matcher(&foreign, &IF_MATCH), Some(Matcher::Versions(vec![])));
        let ours = headers(&[(IF_NONE_MATCH, r#""x""#), (IF_NONE_MATCH, r#"W/"1-2-3""#)]);
        let version = Version { hlc: Hlc(1), node: NodeId(2), incarnation: Incarnation(3) };
        assert_eq!(matcher(&ours, &IF_NONE_MATCH), Some(Matcher::Versions(vec![version])));
        let respelt = headers(&[(IF_MATCH, r#""01-2-3", "1-2-3 ", "A-2-3""#)]);
        assert_eq!(matcher(&respelt, &IF_MATCH), Some(Matcher::Versions(vec![])));
        assert_eq!(matcher(&headers(&[(IF_MATCH, "*")]), &IF_MATCH), Some(Matcher::Any));
        assert_eq!(matcher(&HeaderMap::new(), &IF_MATCH), None);
    }

    #[test]
    fn a_star_counts_alone_and_a_comma_in_quotes_parts_nothing() {
        let (any, none) = (Some(Matcher::Any), Some(Matcher::Versions(vec![])));
        for (text, in_match, in_none_match) in
            [(r#""x", *"#, &none, &any), (r#""x,*,y""#, &none, &none), (" * ,", &any, &any), (r#""*""#, &none, &none), ("", &none, &none)]
        {
            assert_eq!(&matcher(&headers(&[(IF_MATCH, text)]), &IF_MATCH), in_match, "{text}");
            assert_eq!(&matcher(&headers(&[(IF_NONE_MATCH, text)]), &IF_NONE_MATCH), in_none_match, "{text}");
        }
    }

    #[test]
    fn a_fence_names_a_lock_and_a_token() {
        let field = |text| fence(&headers(&[(ISOCHRONE_FENCE, text)]));
        assert_eq!(field("a=b=7").expect("parses"), Some(Fence { lock: "a=b".into(), token: 7 }));
        assert_eq!(field("jobs/%C3%A9 = 7").expect("parses"), Some(Fence { lock: "jobs/\u{e9}".into(), token: 7 }));
        for bad in ["a", "=1", "a=x", "a=", "a=+1", "a=-1", "%zz=1", "%ff=1", "a=18446744073709551616"] {
            assert!(field(bad).is_err(), "{bad}");
        }
        assert_eq!(fence_value("jobs/\u{e9}", 7), "jobs/%C3%A9=7");
    }

    #[test]
    fn an_idempotency_key_has_1_to_128_visible_characters() {
        let key = |text: &str| IdempotencyKey::new(text).map(|key| key.as_str().to_owned());
        assert_eq!(key("abc"), key("\"abc\""));
        assert!(key("").is_err() && key("a b").is_err() && key("é").is_err() && key("\"\"").is_err());
        assert!(key(&"k".repeat(128)).is_ok() && key(&"k".repeat(129)).is_err());
    }

    proptest! {
        #[test]
        fn a_states_etag_reads_back(etag: u128) {
            let written = value(|out| put_state_etag(out, etag));
            prop_assert_eq!(state(written.as_bytes(), false), Some(etag));
            prop_assert_eq!(super::version(written.as_bytes(), false), None);
        }

        #[test]
        fn an_etag_is_written_as_the_version_displays(hlc: u64, node: u128, incarnation: u64) {
            let version = Version { hlc: Hlc(hlc), node: NodeId(node), incarnation: Incarnation(incarnation) };
            let written = value(|out| put_etag(out, &version));
            prop_assert_eq!(written.to_str().expect("ascii"), format!("\"{version}\""));
            prop_assert_eq!(super::version(written.as_bytes(), false), Some(version));
        }

        #[test]
        fn a_number_is_written_as_it_displays(number: u64) {
            let written = value(|out| put_decimal(out, number));
            prop_assert_eq!(written.to_str().expect("ascii"), number.to_string());
        }
    }
}
