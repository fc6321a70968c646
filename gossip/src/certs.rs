//! Certificates for a cluster: its authority, its daemons and its clients.
//!
//! All keys are Ed25519 and all serial numbers 16 bytes with no leading zero, so that every certificate of the same names
//! has the same length: handshakes of equal runs then have packets of equal size, and a seeded simulation stays exact.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use isochrone_ident::{ClusterName, WallMicros};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};

use crate::PeerIdentity;

/// How long an authority is valid unless said otherwise: ten years.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a node's or client's certificate is valid unless said otherwise: one year.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// Certificates are valid from this long before they are made, for daemons whose clocks are behind.
pub const BACKDATED: Duration = Duration::from_secs(86_400);

/// A certificate and its private key, each as PEM text.
#[derive(Clone)]
pub struct CertificatePem {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8. A secret.
    pub key: String,
}

impl std::fmt::Debug for CertificatePem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificatePem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate that could not be made. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A DNS name that is not one.
    #[error("{0:?} is neither an IP address nor a DNS name")]
    Name(String),
    /// The authority's certificate or key does not read.
    #[error("the authority does not read: {0}")]
    Authority(String),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Signing(String),
}

impl CertificatePem {
    /// Writes `<stem>.crt` (mode 0644) and `<stem>.key` (mode 0600) into a directory, which must exist. Each appears whole or not
    /// at all; existing files are replaced.
    ///
    /// # Errors
    /// What the file system says. The key is written first, so a certificate never stands without its key.
    pub fn write(&self, directory: &Path, stem: &str) -> io::Result<()> {
        write_file(&directory.join(format!("{stem}.key")), self.key.as_bytes(), 0o600)?;
        write_file(&directory.join(format!("{stem}.crt")), self.certificate.as_bytes(), 0o644)
    }
}

/// Writes a file beside its place, syncs it, and moves it there. The mode is set when the file is made, so a key is
/// never readable by others, not even for a moment.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let _ = fs::remove_file(&beside);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// A new authority for a cluster, valid from [`BACKDATED`] before `now` until `validity` after it.
///
/// # Errors
/// [`IssueError::Signing`] when the system has no randomness to give.
pub fn create_ca(cluster: &ClusterName, now: WallMicros, validity: Duration) -> Result<CertificatePem, IssueError> {
    let key = new_key()?;
    // A name of its own for each authority, so that a bundle of several is searched by name and not by trial.
    let mark = xxhash_rust::xxh3::xxh3_64(key.public_key_raw()) >> 32;
    let mut params = params(&format!("{cluster} authority {mark:08x}"), &key, now, validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(|e| IssueError::Signing(e.to_string()))?;
    Ok(CertificatePem { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A daemon's certificate: its identity as SAN URI (M2), and the DNS names and IP addresses given. Good as server and as client.
///
/// # Errors
/// [`IssueError`]; nothing was made.
pub fn issue_node(
    ca: &CertificatePem,
    identity: &PeerIdentity,
    names: &[String],
    now: WallMicros,
    validity: Duration,
) -> Result<CertificatePem, IssueError> {
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issue(ca, &Leaf { subject: identity.node.to_string(), uri: identity.uri(), names, usages: &usages }, now, validity)
}

/// A client's certificate: SAN URI `spiffe://<cluster>/client/<name>`. No daemon takes it for a peer.
///
/// # Errors
/// [`IssueError`]; nothing was made.
pub fn issue_client(
    ca: &CertificatePem,
    cluster: &ClusterName,
    name: &str,
    now: WallMicros,
    validity: Duration,
) -> Result<CertificatePem, IssueError> {
    let plain = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !plain {
        return Err(IssueError::Name(name.to_owned()));
    }
    let uri = format!("spiffe://{cluster}/client/{name}");
    issue(ca, &Leaf { subject: name.to_owned(), uri, names: &[], usages: &[ExtendedKeyUsagePurpose::ClientAuth] }, now, validity)
}

/// What distinguishes one leaf certificate from another.
struct Leaf<'a> {
    subject: String,
    uri: String,
    names: &'a [String],
    usages: &'a [ExtendedKeyUsagePurpose],
}

fn issue(ca: &CertificatePem, leaf: &Leaf<'_>, now: WallMicros, validity: Duration) -> Result<CertificatePem, IssueError> {
    let authority = |e: rcgen::Error| IssueError::Authority(e.to_string());
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key).map_err(authority)?).map_err(authority)?;
    let key = new_key()?;
    let mut params = params(&leaf.subject, &key, now, validity);
    params.subject_alt_names.push(SanType::URI(leaf.uri.as_str().try_into().map_err(|_| IssueError::Name(leaf.uri.clone()))?));
    for name in leaf.names {
        params.subject_alt_names.push(san_of(name)?);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = leaf.usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(|e| IssueError::Signing(e.to_string()))?;
    Ok(CertificatePem { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn san_of(name: &str) -> Result<SanType, IssueError> {
    if let Ok(ip) = name.parse() {
        return Ok(SanType::IpAddress(ip));
    }
    let is_label =
        |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let refuse = || IssueError::Name(name.to_owned());
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(refuse());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| refuse())?))
}

fn new_key() -> Result<KeyPair, IssueError> {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(|e| IssueError::Signing(e.to_string()))
}

/// What all certificates have in common.
fn params(subject: &str, key: &KeyPair, now: WallMicros, validity: Duration) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // Whole seconds: X.509 has no fractions. The year 9999 is the last that it can tell.
    let seconds = (now.0 / 1_000_000).min(250_000_000_000);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(seconds.saturating_sub(BACKDATED.as_secs()));
    params.not_after = epoch + Duration::from_secs(seconds + validity.as_secs().min(3_000_000_000));
    params.serial_number = Some(serial_of(key));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject);
    params.distinguished_name = name;
    params
}

/// A serial number of exactly 16 bytes: a hash of the (random, single-use) public key, its first byte made 0x40 to 0x7f so that
/// DER neither drops nor adds a byte.
fn serial_of(key: &KeyPair) -> SerialNumber {
    let mut serial = xxhash_rust::xxh3::xxh3_128(key.public_key_raw()).to_be_bytes();
    serial[0] = serial[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&serial)
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{NodeId, Region};

    use super::*;
    use crate::tls::certificates_of;

    fn cluster() -> ClusterName {
        ClusterName::new("demo").expect("a name")
    }

    fn identity(node: u128) -> PeerIdentity {
        PeerIdentity { cluster: cluster(), region: Region::new("us-east").expect("a name"), node: NodeId(node) }
    }

    const NOW: WallMicros = WallMicros(1_700_000_000_000_000);

    #[test]
    fn m2_a_node_certificate_carries_its_identity_in_the_san() {
        let ca = create_ca(&cluster(), NOW, CA_VALIDITY).expect("made");
        let names = ["127.0.0.1".to_owned(), "node-1.example".to_owned()];
        let node = issue_node(&ca, &identity(7), &names, NOW, LEAF_VALIDITY).expect("made");
        let der = certificates_of(node.certificate.as_bytes()).expect("reads");
        assert_eq!(PeerIdentity::of_certificate(&der[0]), Ok(identity(7)));
    }

    #[test]
    fn certificates_of_equal_names_have_equal_length() {
        let ca = create_ca(&cluster(), NOW, CA_VALIDITY).expect("made");
        let length = || issue_node(&ca, &identity(7), &[], NOW, LEAF_VALIDITY).expect("made").certificate.len();
        let first = length();
        assert!((0..20).all(|_| length() == first));
    }

    #[test]
    fn a_client_certificate_names_no_daemon() {
        let ca = create_ca(&cluster(), NOW, CA_VALIDITY).expect("made");
        let client = issue_client(&ca, &cluster(), "alice", NOW, LEAF_VALIDITY).expect("made");
        let der = certificates_of(client.certificate.as_bytes()).expect("reads");
        assert!(PeerIdentity::of_certificate(&der[0]).is_err());
        assert!(issue_client(&ca, &cluster(), "a/b", NOW, LEAF_VALIDITY).is_err());
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let ca = create_ca(&cluster(), NOW, CA_VALIDITY).expect("made");
        for bad in ["", "a b", "a..b", "-é-"] {
            assert!(issue_node(&ca, &identity(7), &[bad.to_owned()], NOW, LEAF_VALIDITY).is_err(), "{bad:?}");
        }
        let not_ca = CertificatePem { certificate: "x".to_owned(), key: "y".to_owned() };
        assert!(matches!(issue_node(&not_ca, &identity(7), &[], NOW, LEAF_VALIDITY), Err(IssueError::Authority(_))));
    }

    #[cfg(unix)]
    #[test]
    fn a_written_key_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let ca = create_ca(&cluster(), NOW, CA_VALIDITY).expect("made");
        ca.write(directory.path(), "ca").expect("written");
        ca.write(directory.path(), "ca").expect("written again");
        let mode = |name: &str| fs::metadata(directory.path().join(name)).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("ca.crt") & 0o600), (0o600, 0o600));
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }
}
