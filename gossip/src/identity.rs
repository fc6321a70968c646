//! Who a peer is, told by its certificate alone (rule M2).
//!
//! The identity is the certificate's one SAN URI, a SPIFFE id (SPIFFE-ID, section 2) of the form
//! `spiffe://<cluster>/region/<region>/node/<32 hexadecimal digits>`.

use std::fmt;
use std::str::FromStr;

use isochrone_ident::{ClusterName, NodeId, Region};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certified identity of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// The region it runs in.
    pub region: Region,
    /// Its node id.
    pub node: NodeId,
}

/// A certificate or URI that names no daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Not an X.509 certificate.
    #[error("the certificate does not parse")]
    Certificate,
    /// No SAN URI, or more than one: a SPIFFE certificate has exactly one (X509-SVID, section 2).
    #[error("the certificate has {0} SAN URIs, not one")]
    UriCount(usize),
    /// A URI of another form.
    #[error("{0:?} is not spiffe://<cluster>/region/<region>/node/<32 hexadecimal digits>")]
    Uri(String),
}

impl PeerIdentity {
    /// The identity as the URI that goes into the certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("spiffe://{}/region/{}/node/{}", self.cluster, self.region, self.node)
    }

    /// The identity in a certificate (DER).
    ///
    /// # Errors
    /// [`InvalidIdentity`] when the bytes are no certificate, or one that names no daemon.
    pub fn of_certificate(der: &[u8]) -> Result<Self, InvalidIdentity> {
        let uris = san_uris(der)?;
        match uris.as_slice() {
            [uri] => uri.parse(),
            other => Err(InvalidIdentity::UriCount(other.len())),
        }
    }
}

/// The SAN URIs of a certificate.
fn san_uris(der: &[u8]) -> Result<Vec<String>, InvalidIdentity> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| InvalidIdentity::Certificate)?;
    let names = certificate.subject_alternative_name().map_err(|_| InvalidIdentity::Certificate)?;
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    Ok(names.map(|n| n.value.general_names.iter().filter_map(uri).collect()).unwrap_or_default())
}

impl FromStr for PeerIdentity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        let parse = || {
            let mut parts = uri.strip_prefix("spiffe://")?.split('/');
            let cluster = ClusterName::new(parts.next()?).ok()?;
            let region = (parts.next()? == "region").then(|| parts.next()).flatten()?;
            let node = (parts.next()? == "node").then(|| parts.next()).flatten()?;
            let end = parts.next().is_none();
            end.then_some(Self { cluster, region: Region::new(region).ok()?, node: node.parse().ok()? })
        };
        parse().ok_or_else(|| InvalidIdentity::Uri(uri.chars().take(200).collect()))
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.node, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_from_its_uri() {
        let uri = "spiffe://demo/region/us-east/node/0000000000000000000000000000002a";
        let identity: PeerIdentity = uri.parse().expect("is one");
        assert_eq!((identity.node, identity.region.as_str()), (NodeId(42), "us-east"));
        assert_eq!(identity.uri(), uri);
    }

    #[test]
    fn a_uri_of_another_form_is_refused() {
        for bad in [
            "",
            "https://demo/region/us-east/node/0000000000000000000000000000002a",
            "spiffe://demo/region/us-east/node/2a",
            "spiffe://demo/client/alice",
            "spiffe://demo/region/US/node/0000000000000000000000000000002a",
            "spiffe://demo/region/us-east/node/0000000000000000000000000000002a/x",
            "spiffe:///region/us-east/node/0000000000000000000000000000002a",
        ] {
            assert!(bad.parse::<PeerIdentity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_identity() {
        assert_eq!(PeerIdentity::of_certificate(b"garbage"), Err(InvalidIdentity::Certificate));
        assert_eq!(PeerIdentity::of_certificate(&[]), Err(InvalidIdentity::Certificate));
    }
}
