//! `get`, `put`, `del`.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, Method};
use isochrone_ident::Key;
use rand::Rng;
use serde_json::{Map, Value, json};

use super::address::{KeyAddress, encoded, url_path};
use super::args::{DataAccess, DelArgs, GetArgs, OutputFormat, PutArgs};
use super::client::{Ask, Client, Patience, Payload};
use super::content_type;
use super::failure::{Exit, Failure};
use super::output::show;

/// How often one read or write is sent: enough to get over a daemon's restart.
const ATTEMPTS: u8 = 4;
/// The most that is read from stdin: the largest value that a daemon can be set to take.
const STDIN_BYTES_MAX: u64 = 512 << 20;

fn data(access: &DataAccess) -> Result<Client, Failure> {
    Client::new(&access.url, &access.access, Patience::of(ATTEMPTS), 1)
}

/// The path of a key under `/v1/kv`.
///
/// # Errors
/// For the keys `.` and `..`, which no URL can carry.
pub(super) fn kv_path(address: &KeyAddress) -> Result<String, Failure> {
    let path = url_path(&address.key).ok_or_else(|| no_path(&address.key))?;
    Ok(format!("/v1/kv/{}/{path}", address.namespace))
}

/// A key that no URL can carry.
pub(super) fn no_path(key: &Key) -> Failure {
    Failure::new(Exit::Usage, format!("the key {:?} cannot stand in a URL", encoded(key.as_bytes())), "")
        .advise("Use POST /v1/batch for the keys `.` and `..`.")
}

/// A name for a write that nobody else will choose.
pub(super) fn random_name(what: &str) -> String {
    format!("{what}-{:032x}", rand::rng().random::<u128>())
}

fn ask(method: Method, address: &KeyAddress, query: &str, consistency: Option<&str>) -> Result<Ask, Failure> {
    let ask = Ask::new(method, format!("{}{query}", kv_path(address)?));
    consistency.map_or(Ok(ask.clone()), |level| ask.header("isochrone-consistency", level))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What the receipt headers say, as JSON members.
fn receipt(headers: &HeaderMap) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("etag".to_owned(), json!(header(headers, "etag")));
    members.insert("consistency".to_owned(), json!(header(headers, "isochrone-consistency")));
    members.insert("region".to_owned(), json!(header(headers, "isochrone-region")));
    if let Some(age) = header(headers, "isochrone-age-ms").and_then(|ms| ms.parse::<u64>().ok()) {
        members.insert("age_ms".to_owned(), json!(age));
    }
    members
}

/// Bytes as the contract writes them in JSON: `text` where they are UTF-8, else `base64`.
pub(super) fn value_member(bytes: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("base64", BASE64.encode(bytes)),
    }
}

/// A key as JSON members: `key` where it is UTF-8, else `key_base64`.
pub(super) fn key_member(key: &Key) -> (&'static str, String) {
    match std::str::from_utf8(key.as_bytes()) {
        Ok(text) => ("key", text.to_owned()),
        Err(_) => ("key_base64", BASE64.encode(key.as_bytes())),
    }
}

/// `isochrone get`.
///
/// # Errors
/// Exit code 3 when the key is absent; else what the daemon or the file system says.
pub(crate) async fn get(args: &GetArgs, format: OutputFormat) -> Result<(), Failure> {
    let client = data(&args.data)?;
    let request = ask(Method::GET, &args.key, "", args.consistency.as_deref())?;
    let mut answer = client.send(&request).await?;
    let headers = answer.headers().clone();
    if format == OutputFormat::Json && args.file.is_none() {
        let mut value = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| client.broke_off(&error))? {
            value.extend_from_slice(&piece);
        }
        show(format, &got(&args.key, &headers, Some(&value)), |_| String::new())?;
        return Ok(());
    }
    let mut sink: Box<dyn Write> = match &args.file {
        Some(path) => Box::new(std::fs::File::create(path).map_err(|error| Failure::file("write", path, &error))?),
        None => Box::new(std::io::stdout().lock()),
    };
    while let Some(piece) = answer.chunk().await.map_err(|error| client.broke_off(&error))? {
        sink.write_all(&piece)?;
    }
    sink.flush()?;
    if format == OutputFormat::Json {
        show(format, &got(&args.key, &headers, None), |_| String::new())?;
    }
    Ok(())
}

fn got(address: &KeyAddress, headers: &HeaderMap, value: Option<&[u8]>) -> Value {
    let mut members = receipt(headers);
    members.insert("ns".to_owned(), json!(address.namespace));
    let (name, key) = key_member(&address.key);
    members.insert(name.to_owned(), json!(key));
    members.insert("content_type".to_owned(), json!(header(headers, "content-type")));
    if let Some((name, value)) = value.map(value_member) {
        members.insert(name.to_owned(), json!(value));
    }
    Value::Object(members)
}

/// `isochrone put`.
///
/// # Errors
/// What the daemon or the file system says.
pub(crate) async fn put(args: &PutArgs, format: OutputFormat) -> Result<(), Failure> {
    let (payload, guessed) = put_payload(args)?;
    let query = args.ttl.map(|ttl| format!("?ttl={}", ttl_text(ttl))).unwrap_or_default();
    let kind = args.content_type.clone().unwrap_or(guessed);
    let request = ask(Method::PUT, &args.key, &query, args.consistency.as_deref())?.header("content-type", &kind)?.payload(payload);
    write(request, args.idempotency_key.as_deref(), &args.data, &args.key, "written", format).await
}

/// A TTL as the query wants it.
pub(super) fn ttl_text(ttl: Duration) -> String {
    format!("{}ms", ttl.as_millis())
}

fn put_payload(args: &PutArgs) -> Result<(Payload, String), Failure> {
    if let Some(path) = &args.file {
        let kind = content_type::of_file(path).map_err(|error| Failure::file("read", path, &error))?;
        return Ok((Payload::File(path.clone()), kind));
    }
    let value = match &args.value {
        Some(value) if value == "-" => stdin_bytes()?,
        Some(value) => value.clone().into_vec(),
        None => OsString::new().into_vec(),
    };
    let kind = if std::str::from_utf8(&value).is_ok() { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    Ok((Payload::Bytes(value.into()), kind.to_owned()))
}

fn stdin_bytes() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let stdin = std::io::stdin().lock().take(STDIN_BYTES_MAX + 1);
    { stdin }.read_to_end(&mut bytes).map_err(|error| Failure::file("read", Path::new("stdin"), &error))?;
    if bytes.len() as u64 > STDIN_BYTES_MAX {
        return Err(Failure::failed("the value is too large", "no daemon takes more than 512 MiB"));
    }
    Ok(bytes)
}

/// `isochrone del`.
///
/// # Errors
/// What the daemon says.
pub(crate) async fn del(args: &DelArgs, format: OutputFormat) -> Result<(), Failure> {
    let request = ask(Method::DELETE, &args.key, "", args.consistency.as_deref())?;
    write(request, args.idempotency_key.as_deref(), &args.data, &args.key, "deleted", format).await
}

async fn write(
    request: Ask,
    name: Option<&str>,
    access: &DataAccess,
    address: &KeyAddress,
    verb: &str,
    format: OutputFormat,
) -> Result<(), Failure> {
    let name = name.map_or_else(|| random_name("cli"), str::to_owned);
    let (headers, _) = data(access)?.document(&request.header("idempotency-key", &name)?).await.map_err(|failure| named(failure, &name))?;
    let mut members = receipt(&headers);
    members.insert("idempotency_key".to_owned(), json!(name));
    members.insert("ns".to_owned(), json!(address.namespace));
    let (member, key) = key_member(&address.key);
    members.insert(member.to_owned(), json!(key));
    let text = format!(
        "{verb} {}/{} (etag {}, {} in {})",
        address.namespace,
        encoded(address.key.as_bytes()),
        header(&headers, "etag").unwrap_or("-"),
        header(&headers, "isochrone-consistency").unwrap_or("-"),
        header(&headers, "isochrone-region").unwrap_or("-"),
    );
    show(format, &Value::Object(members), |_| text)?;
    Ok(())
}

/// An outcome that is not known can be found out by repeating the write under the name it had.
fn named(failure: Failure, name: &str) -> Failure {
    if failure.exit == Exit::OutcomeUnknown {
        return failure.advise(format!("It may yet be applied: run it again with --idempotency-key {name}"));
    }
    failure
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn values_and_keys_are_text_where_they_are_utf8() {
        assert_eq!(value_member("é".as_bytes()), ("text", "é".to_owned()));
        assert_eq!(value_member(b"\xff"), ("base64", "/w==".to_owned()));
        assert_eq!(key_member(&Key::new(&b"\xff"[..]).expect("a key")).0, "key_base64");
    }

    #[test]
    fn the_key_of_two_dots_is_refused_with_a_way_out() {
        let address = KeyAddress::parse(OsStr::new("data/..")).expect("an address");
        assert!(kv_path(&address).expect_err("refused").to_string().contains("/v1/batch"));
    }

    #[test]
    fn an_unknown_outcome_names_the_write() {
        let failure = named(Failure::of_answer(504, b""), "cli-1");
        assert!(failure.to_string().contains("--idempotency-key cli-1"));
    }
}
