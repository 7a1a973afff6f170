//! TLS: certificates from files, read again when they change; the last good pair is kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain and its key, from two PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why TLS can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or parsed.
    #[error("can't use the TLS file {path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The two don't fit or aren't usable.
    #[error("the TLS certificate and key can't be used together: {0}")]
    Pair(rustls::Error),
}

/// The current certificate, replaced when the files change.
#[derive(Debug)]
pub struct Certificates {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
    seen: ArcSwap<Stamp>,
}

/// Modification times and lengths of both files: cheap to compare, and both change together in
/// any sane renewal.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificates {
    /// Loads the files.
    ///
    /// # Errors
    /// [`TlsError`] says which file and why.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let stamp = stamp(&files);
        let key = read(&files)?;
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(key),
            seen: ArcSwap::from_pointee(stamp),
            files,
        }))
    }

    /// Reads the files again if they changed; `Ok(true)` when a new pair is in use. On an error the
    /// old pair stays, and the files are tried again when they change again.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let stamp = stamp(&self.files);
        if **self.seen.load() == stamp {
            return Ok(false);
        }
        self.seen.store(Arc::new(stamp));
        self.current.store(Arc::new(read(&self.files)?));
        Ok(true)
    }

    /// The server's TLS settings: TLS 1.2 and 1.3, HTTP/2 preferred.
    ///
    /// # Errors
    /// [`TlsError::Pair`] if the provider lacks a protocol version (it does not).
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    let of = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    [of(&files.certificate), of(&files.key)]
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let wrong = |path: &Path, why: String| TlsError::File { path: path.to_owned(), why };
    let pem_error = |path: &Path, error: rustls_pki_types::pem::Error| match error {
        rustls_pki_types::pem::Error::Io(io) => wrong(path, io_text(&io)),
        other => wrong(path, format!("{other}; it must be PEM")),
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(&files.certificate, error))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, "there is no certificate in it".into()));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| pem_error(&files.key, error))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(TlsError::Pair)
}

fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "it may not be read by this user".into(),
        _ => error.to_string(),
    }
}
