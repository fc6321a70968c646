//! Listings: a page of keys, one JSON object a line.

use bytes::Bytes;
use http::header::LINK;
use http::{HeaderValue, Response};
use isochrone_ident::{Key, Kind, Namespace, WallMicros};
use serde_json::{Map, Value};

use super::typed::check_mode;
use super::{Api, Asked, level_in, remember, whole, within};
use crate::auth::Right;
use crate::body::ResponseBody;
use crate::command::{ListCommand, ListPage, Listed, Refusal};
use crate::fields;
use crate::path::encode;
use crate::problem::Problem;
use crate::route::{collection, namespace};

impl Api {
    pub(super) async fn list(&self, kind: Kind, asked: Asked) -> Result<Response<ResponseBody>, Problem> {
        let ns = namespace(&asked.tail)?;
        let view = self.enter(&asked.identity, Right::Read, &ns)?;
        remember(&ns);
        check_mode(&ns, &view, kind)?;
        let consistency = asked.query.text("consistency")?;
        let level = level_in(&ns, &view, fields::level(&asked.parts.headers, consistency)?)?;
        let prefix = Bytes::copy_from_slice(asked.query.bytes("prefix").unwrap_or_default());
        let limit = self.limit(asked.query.text("limit")?)?;
        let after = asked.query.bytes("after").filter(|bytes| !bytes.is_empty()).map(after).transpose()?;
        let deadline = self.deadline();
        let command =
            ListCommand { ns: ns.clone(), kind, prefix: prefix.clone(), after, limit, level, session: asked.session.clone(), deadline };
        let page = within(deadline, self.0.backend.list(command), Refusal::DeadlineBefore).await?;
        let mut response = whole("application/x-ndjson", lines(&page, self.now()));
        fields::put_receipt(response.headers_mut(), &page.receipt);
        if let Some(next) = &page.next {
            response.headers_mut().insert(LINK, next_link(kind, &ns, &prefix, limit, consistency, next));
        }
        Ok(response)
    }

    fn limit(&self, text: Option<&str>) -> Result<usize, Problem> {
        let Some(text) = text else { return Ok(self.0.limits.list_default) };
        let most = self.0.limits.list_max;
        let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| Problem::malformed(format!("the limit is a number from 1 to {most}")))
    }
}

fn after(bytes: &[u8]) -> Result<Key, Problem> {
    Key::new(bytes.to_vec()).map_err(|e| Problem::malformed(format!("`after`: {e}")))
}

fn lines(page: &ListPage, now: WallMicros) -> Bytes {
    let mut text = String::with_capacity(page.entries.len() * 96);
    for entry in &page.entries {
        text.push_str(&line(entry, now).to_string());
        text.push('\n');
    }
    text.into()
}

/// `{"key","etag","bytes","expires_in_ms"?}`; a key that is not UTF-8 stands as `key_base64`, as values do.
fn line(entry: &Listed, now: WallMicros) -> Value {
    let mut object = Map::new();
    let (text, base64) = super::batch::text_or_base64(entry.key.as_bytes());
    object.extend(text.map(|text| ("key".into(), text.into())));
    object.extend(base64.map(|encoded| ("key_base64".into(), encoded.into())));
    let etag = entry.etag.map_or_else(|| format!("\"{}\"", entry.version), |etag| format!("\"{etag:x}\""));
    object.insert("etag".into(), etag.into());
    object.insert("bytes".into(), entry.bytes.into());
    if let Some(at) = entry.expires_at {
        object.insert("expires_in_ms".into(), (at.0.saturating_sub(now.0) / 1000).into());
    }
    Value::Object(object)
}

/// The next page's address (RFC 8288), relative to this one.
fn next_link(kind: Kind, ns: &Namespace, prefix: &[u8], limit: usize, consistency: Option<&str>, next: &Key) -> HeaderValue {
    let consistency = consistency.map(|level| format!("&consistency={}", encode(level.as_bytes()))).unwrap_or_default();
    let link = format!(
        "</v1/{}/{ns}?prefix={}&after={}&limit={limit}{consistency}>; rel=\"next\"",
        collection(kind),
        encode(prefix),
        encode(next.as_bytes())
    );
    HeaderValue::try_from(link).unwrap_or(HeaderValue::from_static(""))
}
