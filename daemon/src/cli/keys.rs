//! `get`, `put`, `del`, `incr`.

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
use super::args::{Conditions, DataAccess, DelArgs, GetArgs, IncrArgs, KeyType, OutputFormat, PutArgs};
use super::client::{Ask, Client, Patience, Payload};
use super::content_type;
use super::failure::{Exit, Failure};
use super::output::{cell, show};

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
    path_of(KeyType::Value, address)
}

fn path_of(kind: KeyType, address: &KeyAddress) -> Result<String, Failure> {
    let path = url_path(&address.key).ok_or_else(|| no_path(&address.key))?;
    Ok(format!("/v1/{}/{}/{path}", space(kind), address.namespace))
}

/// The part of the API that serves a type.
const fn space(kind: KeyType) -> &'static str {
    match kind {
        KeyType::Value => "kv",
        KeyType::Counter => "counters",
        KeyType::Set => "sets",
        KeyType::Map => "maps",
        KeyType::Register => "registers",
    }
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
    at_level(Ask::new(method, format!("{}{query}", kv_path(address)?)), consistency)
}

fn at_level(ask: Ask, consistency: Option<&str>) -> Result<Ask, Failure> {
    consistency.map_or(Ok(ask.clone()), |level| ask.header("isochrone-consistency", level))
}

/// The conditions as header fields.
fn under(ask: Ask, conditions: &Conditions) -> Result<Ask, Failure> {
    let lists = [("if-match", &conditions.if_match), ("if-none-match", &conditions.if_none_match)];
    let ask = lists.into_iter().filter(|(_, tags)| !tags.is_empty()).try_fold(ask, |ask, (name, tags)| {
        let tags: Vec<String> = tags.iter().map(|tag| quoted(tag)).collect();
        ask.header(name, &tags.join(", "))
    })?;
    conditions.fence.as_deref().map_or(Ok(ask.clone()), |fence| ask.header("isochrone-fence", fence))
}

/// An entity tag as its field writes it, since a shell takes the quotes away.
fn quoted(tag: &str) -> String {
    let tag = tag.trim();
    if tag == "*" || tag.starts_with('"') || tag.starts_with("W/") { tag.to_owned() } else { format!("\"{tag}\"") }
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
    if let Some(path) = header(headers, "isochrone-path") {
        members.insert("path".to_owned(), json!(path));
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
    if args.kind != KeyType::Value {
        return get_typed(args, format).await;
    }
    let client = data(&args.data)?;
    let query = if args.for_update { "?for=update" } else { "" };
    let request = ask(Method::GET, &args.key, query, args.consistency.as_deref())?;
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

/// A key that is no value: its JSON as the daemon wrote it, or, with `-o json`, that with the receipt beside it.
async fn get_typed(args: &GetArgs, format: OutputFormat) -> Result<(), Failure> {
    let request = at_level(Ask::new(Method::GET, path_of(args.kind, &args.key)?), args.consistency.as_deref())?;
    let (headers, body) = data(&args.data)?.document(&request).await?;
    if let Some(path) = &args.file {
        std::fs::write(path, &body).map_err(|error| Failure::file("write", path, &error))?;
    }
    let mut members = named_receipt(&args.key, &headers);
    match &args.file {
        Some(_) if format == OutputFormat::Text => return Ok(()),
        Some(_) => {}
        None => members.extend(object(&body)?),
    }
    show(format, &Value::Object(members), |_| String::from_utf8_lossy(&body).into_owned())?;
    Ok(())
}

/// The members of an answer that is one JSON object.
fn object(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::failed("the daemon did not answer with a JSON object", error.to_string()))
}

/// The receipt, and which key it is for.
fn named_receipt(address: &KeyAddress, headers: &HeaderMap) -> Map<String, Value> {
    let mut members = receipt(headers);
    members.insert("ns".to_owned(), json!(address.namespace));
    let (name, key) = key_member(&address.key);
    members.insert(name.to_owned(), json!(key));
    members
}

fn got(address: &KeyAddress, headers: &HeaderMap, value: Option<&[u8]>) -> Value {
    let mut members = named_receipt(address, headers);
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
    write(under(request, &args.conditions)?, args.idempotency_key.as_deref(), &args.data, &args.key, "written", format).await
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
    write(under(request, &args.conditions)?, args.idempotency_key.as_deref(), &args.data, &args.key, "deleted", format).await
}

/// `isochrone incr`.
///
/// # Errors
/// What the daemon says; an addition that would pass 64 bits is refused.
pub(crate) async fn incr(args: &IncrArgs, format: OutputFormat) -> Result<(), Failure> {
    let name = args.idempotency_key.clone().unwrap_or_else(|| random_name("cli"));
    let (headers, body) = data(&args.data)?.document(&incr_ask(args, &name)?).await.map_err(|failure| named(failure, &name))?;
    let mut members = named_receipt(&args.key, &headers);
    members.insert("idempotency_key".to_owned(), json!(name));
    members.extend(object(&body)?);
    show(format, &Value::Object(members), |answer| cell(&answer["value"]))?;
    Ok(())
}

fn incr_ask(args: &IncrArgs, name: &str) -> Result<Ask, Failure> {
    let body = json!({"add": args.by}).to_string();
    let ask = Ask::new(Method::POST, path_of(KeyType::Counter, &args.key)?)
        .header("content-type", "application/json")?
        .header("idempotency-key", name)?
        .payload(Payload::Bytes(body.into()));
    at_level(ask, args.consistency.as_deref())
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
    let mut members = named_receipt(address, &headers);
    members.insert("idempotency_key".to_owned(), json!(name));
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

    use clap::Parser;

    use super::super::args::{Cli, Command};
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
    fn each_type_of_key_has_its_own_path() {
        let address = KeyAddress::parse(OsStr::new("data/a/b c")).expect("an address");
        let path = |kind| path_of(kind, &address).expect("a path");
        assert_eq!(path(KeyType::Value), "/v1/kv/data/a/b%20c");
        assert_eq!(path(KeyType::Counter), "/v1/counters/data/a/b%20c");
        let others = [KeyType::Set, KeyType::Map, KeyType::Register].map(path);
        assert_eq!(others, ["/v1/sets/data/a/b%20c", "/v1/maps/data/a/b%20c", "/v1/registers/data/a/b%20c"]);
    }

    #[test]
    fn an_addition_travels_under_its_name_as_json() {
        let line = ["isochrone", "incr", "data/hits", "-3", "--idempotency-key", "order-17", "--consistency", "quorum"];
        let Command::Incr(args) = Cli::try_parse_from(line).expect("parses").command else { panic!("incr") };
        let ask = incr_ask(&args, args.idempotency_key.as_deref().expect("given")).expect("a request");
        assert_eq!((ask.method, ask.path.as_str()), (Method::POST, "/v1/counters/data/hits"));
        for (name, value) in [("content-type", "application/json"), ("idempotency-key", "order-17"), ("isochrone-consistency", "quorum")] {
            assert_eq!(ask.headers[name], value);
        }
        assert!(matches!(ask.payload, Payload::Bytes(body) if body == r#"{"add":-3}"#));
    }

    #[test]
    fn conditions_travel_as_header_fields_with_their_quotes() {
        let line = ["isochrone", "put", "strong/k", "v", "--if-match", "1f-0-0,\"2-0-0\"", "--if-none-match", "*", "--fence", "jobs=7"];
        let Command::Put(args) = Cli::try_parse_from(line).expect("parses").command else { panic!("put") };
        let ask = under(Ask::new(Method::PUT, "/v1/kv/strong/k"), &args.conditions).expect("a request");
        for (name, value) in [("if-match", "\"1f-0-0\", \"2-0-0\""), ("if-none-match", "*"), ("isochrone-fence", "jobs=7")] {
            assert_eq!(ask.headers[name], value);
        }
        let Command::Del(args) = Cli::try_parse_from(["isochrone", "del", "strong/k"]).expect("parses").command else { panic!("del") };
        assert!(under(Ask::new(Method::DELETE, "/"), &args.conditions).expect("a request").headers.is_empty());
    }

    #[test]
    fn an_answer_that_is_no_object_is_told() {
        assert!(object(b"7").is_err() && object(b"").is_err() && object(br#"{"value": 7}"#).is_ok());
    }

    #[test]
    fn an_unknown_outcome_names_the_write() {
        let failure = named(Failure::of_answer(504, b""), "cli-1");
        assert!(failure.to_string().contains("--idempotency-key cli-1"));
    }
}
