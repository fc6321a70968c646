//! TLS for the mesh (rules M2, M4): mutual, 1.3 only, against the cluster's authorities; read from files and reloaded live.
//!
//! Names in certificates are not checked against addresses: a peer is whom its SAN URI says (M2), wherever it is reached, and
//! the authority vouches for that URI. What is checked in the handshake is the chain; [`crate::PeerIdentity`] is checked right after.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isochrone_ident::WallMicros;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::wire::VERSIONS;
use crate::{InvalidIdentity, PeerIdentity, WallClock};

/// Where a daemon's certificate, key and authorities come from.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// PEM files, read again at each reload and watched for changes.
    Files {
        /// The daemon's certificate, and intermediates after it if there are any.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// The bundle of authorities; several while they are being rotated (M4).
        authorities: PathBuf,
    },
    /// PEM texts in memory, for simulations and tests.
    Memory {
        /// The daemon's certificate and key.
        own: crate::certs::CertificatePem,
        /// The bundle of authorities.
        authorities: String,
    },
}

/// Certificates that can't be used. Whatever was in use before still is (M4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file does not read.
    #[error("{path}: {error}")]
    File {
        /// Which one.
        path: String,
        /// What the file system says.
        error: String,
    },
    /// PEM text without what is expected in it.
    #[error("{what}: {error}")]
    Pem {
        /// What was expected.
        what: &'static str,
        /// What is wrong.
        error: String,
    },
    /// The certificate names no daemon.
    #[error("our certificate: {0}")]
    Identity(#[from] InvalidIdentity),
    /// The certificate is another daemon's.
    #[error("our certificate is for {found}, and we are {expected}")]
    WrongIdentity {
        /// Whom the certificate names.
        found: String,
        /// Whom it should name.
        expected: String,
    },
    /// The key is not the certificate's, or of a kind that is not spoken.
    #[error("certificate and key do not go together: {0}")]
    Key(String),
    /// None of the bundle's authorities vouches for our own certificate now: peers would refuse it as well.
    #[error("our certificate does not hold against the bundle of authorities: {0}")]
    Chain(String),
}

/// One loaded, checked set of certificates, ready for new connections.
#[derive(Clone)]
pub(crate) struct Material {
    pub(crate) server: Arc<QuicServerConfig>,
    pub(crate) client: Arc<QuicClientConfig>,
    /// When our own certificate ends, in seconds since 1970.
    pub(crate) expires_at: i64,
    /// Tells one material from another.
    pub(crate) fingerprint: u128,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// The texts that a material is made of.
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<u8>,
}

impl Credentials {
    fn read(&self) -> Result<Texts, TlsError> {
        let file =
            |path: &PathBuf| std::fs::read(path).map_err(|e| TlsError::File { path: path.display().to_string(), error: e.to_string() });
        match self {
            Self::Files { certificate, key, authorities } => {
                Ok(Texts { certificate: file(certificate)?, key: file(key)?, authorities: file(authorities)? })
            }
            Self::Memory { own, authorities } => Ok(Texts {
                certificate: own.certificate.clone().into_bytes(),
                key: own.key.clone().into_bytes(),
                authorities: authorities.clone().into_bytes(),
            }),
        }
    }

    /// Reads and checks everything; gives it only if all of it is good for `me` at this time.
    pub(crate) fn load(&self, me: &PeerIdentity, wall: &WallClock) -> Result<Material, TlsError> {
        let texts = self.read()?;
        let chain = certificates_of(&texts.certificate)?;
        check_identity(&chain, me)?;
        let roots = roots_of(&texts.authorities)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        check_chain(&chain, &roots, &provider, wall())?;
        let expires_at = expiry_of(&chain[0])?;
        let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|e| TlsError::Pem { what: "private key", error: e.to_string() })?;
        let clock = Arc::new(RustlsClock(wall.clone()));
        let server = server_config(&provider, &clock, roots.clone(), chain.clone(), key.clone_key())?;
        let client = client_config(&provider, &clock, roots, chain, key)?;
        let mut all = texts.certificate;
        all.extend_from_slice(&texts.key);
        all.extend_from_slice(&texts.authorities);
        Ok(Material { server, client, expires_at, fingerprint: xxhash_rust::xxh3::xxh3_128(&all) })
    }

    /// The files to watch.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Files { certificate, key, authorities } => vec![certificate.clone(), key.clone(), authorities.clone()],
            Self::Memory { .. } => Vec::new(),
        }
    }
}

/// The certificates in a PEM text: at least one.
pub(crate) fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error: String| TlsError::Pem { what: "certificate", error };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(failed("none in the file".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn roots_of(pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates_of(pem)? {
        roots.add(authority).map_err(|e| TlsError::Pem { what: "authority", error: e.to_string() })?;
    }
    Ok(Arc::new(roots))
}

fn check_identity(chain: &[CertificateDer<'_>], me: &PeerIdentity) -> Result<(), TlsError> {
    let found = PeerIdentity::of_certificate(&chain[0])?;
    if found == *me {
        return Ok(());
    }
    Err(TlsError::WrongIdentity { found: found.uri(), expected: me.uri() })
}

fn check_chain(chain: &[CertificateDer<'_>], roots: &RootCertStore, provider: &CryptoProvider, now: WallMicros) -> Result<(), TlsError> {
    let refused = |e: rustls::Error| TlsError::Chain(e.to_string());
    let certificate = ParsedCertificate::try_from(&chain[0]).map_err(refused)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&certificate, roots, &chain[1..], unix_time(now), algorithms).map_err(refused)
}

fn expiry_of(certificate: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| TlsError::Identity(InvalidIdentity::Certificate))?;
    Ok(parsed.validity().not_after.timestamp())
}

fn unix_time(wall: WallMicros) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_micros(wall.0))
}

/// Lets rustls see the daemon's own wall clock, which a simulation sets.
struct RustlsClock(WallClock);

impl std::fmt::Debug for RustlsClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RustlsClock")
    }
}

impl rustls::time_provider::TimeProvider for RustlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time((self.0)()))
    }
}

fn alpn_protocols() -> Vec<Vec<u8>> {
    VERSIONS.iter().map(|version| version.alpn()).collect()
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<RustlsClock>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<QuicServerConfig>, TlsError> {
    let failed = |e: &dyn std::fmt::Display| TlsError::Key(e.to_string());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().map_err(|e| failed(&e))?;
    let mut config = rustls::ServerConfig::builder_with_details(provider.clone(), clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| failed(&e))?;
    config.alpn_protocols = alpn_protocols();
    // No resumption and no 0-RTT: both would let a peer in on yesterday's certificate, and tickets vary in length.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(QuicServerConfig::try_from(config).map_err(|e| failed(&e))?))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<RustlsClock>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<QuicClientConfig>, TlsError> {
    let failed = |e: &dyn std::fmt::Display| TlsError::Key(e.to_string());
    let mut config = rustls::ClientConfig::builder_with_details(provider.clone(), clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainVerifier { roots, provider: provider.clone() }))
        .with_client_auth_cert(chain, key)
        .map_err(|e| failed(&e))?;
    config.alpn_protocols = alpn_protocols();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(QuicClientConfig::try_from(config).map_err(|e| failed(&e))?))
}

/// Checks a server's chain as rustls does, but no name: see the module's documentation.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{ClusterName, NodeId, Region};

    use super::*;
    use crate::certs::{self, CA_VALIDITY, CertificatePem, LEAF_VALIDITY};

    const NOW: WallMicros = WallMicros(1_700_000_000_000_000);

    fn wall() -> WallClock {
        Arc::new(|| NOW)
    }

    fn me() -> PeerIdentity {
        PeerIdentity {
            cluster: ClusterName::new("demo").expect("a name"),
            region: Region::new("us-east").expect("a name"),
            node: NodeId(1),
        }
    }

    fn authority() -> CertificatePem {
        certs::create_ca(&me().cluster, NOW, CA_VALIDITY).expect("made")
    }

    fn own(ca: &CertificatePem) -> CertificatePem {
        certs::issue_node(ca, &me(), &[], NOW, LEAF_VALIDITY).expect("made")
    }

    fn load(own: CertificatePem, authorities: String) -> Result<Material, TlsError> {
        Credentials::Memory { own, authorities }.load(&me(), &wall())
    }

    #[test]
    fn m4_a_bundle_may_hold_several_authorities() {
        let (old, new) = (authority(), authority());
        let bundle = format!("{}{}", old.certificate, new.certificate);
        for ca in [&old, &new] {
            let material = load(own(ca), bundle.clone()).expect("good");
            assert_eq!(material.expires_at, 1_700_000_000 + 365 * 86_400);
        }
    }

    #[test]
    fn a_certificate_that_no_authority_vouches_for_is_not_loaded() {
        let (ours, other) = (authority(), authority());
        assert!(matches!(load(own(&ours), other.certificate), Err(TlsError::Chain(_))));
    }

    #[test]
    fn an_expired_certificate_is_not_loaded() {
        let ca = authority();
        let long_ago = WallMicros(NOW.0 - 800 * 86_400_000_000);
        let expired = certs::issue_node(&ca, &me(), &[], long_ago, LEAF_VALIDITY).expect("made");
        assert!(matches!(load(expired, ca.certificate), Err(TlsError::Chain(_))));
    }

    #[test]
    fn another_daemons_certificate_is_not_loaded() {
        let ca = authority();
        let other = PeerIdentity { node: NodeId(2), ..me() };
        let other = certs::issue_node(&ca, &other, &[], NOW, LEAF_VALIDITY).expect("made");
        assert!(matches!(load(other, ca.certificate), Err(TlsError::WrongIdentity { .. })));
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_not_loaded() {
        let ca = authority();
        let mixed = CertificatePem { certificate: own(&ca).certificate, key: own(&ca).key };
        assert!(matches!(load(mixed, ca.certificate), Err(TlsError::Key(_))));
    }

    #[test]
    fn garbage_in_any_file_is_not_loaded() {
        let ca = authority();
        let good = own(&ca);
        let bad_certificate = CertificatePem { certificate: "garbage".to_owned(), key: good.key.clone() };
        let bad_key = CertificatePem { certificate: good.certificate.clone(), key: "garbage".to_owned() };
        assert!(matches!(load(bad_certificate, ca.certificate.clone()), Err(TlsError::Pem { .. })));
        assert!(matches!(load(bad_key, ca.certificate), Err(TlsError::Pem { .. })));
        assert!(matches!(load(good, "garbage".to_owned()), Err(TlsError::Pem { .. })));
    }
}
