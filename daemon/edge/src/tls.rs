//! TLS of a listener: certificate and key from files, read again on demand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use metrics::counter;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a certificate or key cannot be used. What was in force before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is not PEM.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate and the key do not belong together, or are of a kind that is not known.
    #[error("{certificate} and {key}: {reason}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: rustls::Error,
    },
}

/// A listener's certificate, with ALPN for HTTP/2 and HTTP/1.1. New connections use the newest; open ones keep theirs.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads a certificate chain and its key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used.
    pub fn load(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        let config = ArcSwap::from_pointee(read(&certificate, &key)?);
        Ok(Self { certificate, key, config })
    }

    /// Reads both files again.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used; the ones in force stay in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        let result = read(&self.certificate, &self.key);
        counter!("isochrone_http_tls_reloads_total", "result" => if result.is_ok() { "ok" } else { "refused" }).increment(1);
        self.config.store(Arc::new(result?));
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.config.load_full().into()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |e: rustls_pki_types::pem::Error| TlsError::File { path, reason: e.to_string() }
    };
    let pair = |reason| TlsError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), reason };
    let read = CertificateDer::pem_file_iter(certificate).map_err(file(certificate))?;
    let chain = read.collect::<Result<Vec<_>, _>>().map_err(file(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::File { path: certificate.to_owned(), reason: "holds no certificate".to_owned() });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(file(key))?;
    let builder =
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().map_err(pair)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, secret).map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
