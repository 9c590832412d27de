//! The certificate that the listener shows, and how it is replaced while the server runs. Files are read by the main
//! thread; a core takes what is current when a connection comes, and keeps that for as long as the connection lasts.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use thiserror::Error;

/// A chain of certificates takes a few KiB; what is longer is another file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;
/// The one protocol that this server speaks (RFC 7301 §6).
const ALPN: &[u8] = b"http/1.1";

/// Where the certificate and its key are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain of certificates in PEM, the server's own first.
    pub certificate: PathBuf,
    /// The private key of the first of them, in PEM.
    pub key: PathBuf,
}

/// Why a certificate cannot be used. None of the messages has anything of the key in it.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting} {path}: cannot read it")]
    Read {
        /// Which of the two.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or nothing of it is what it should be.
    #[error("{setting} {path}: it has no {wanted} in PEM")]
    NotPem {
        /// Which of the two.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What is wrong with it, if anything is in it.
        #[source]
        source: Option<pem::Error>,
    },
    /// What is in a file is of no use here.
    #[error("{setting} {path}: it cannot be used")]
    Unusable {
        /// Which of the two.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// The two do not belong together.
    #[error("TLS_KEY_FILE {key}: it is not the key of the first certificate in TLS_CERT_FILE {certificate}")]
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// No keys for tickets, or no protocol versions: random numbers are not to be had.
    #[error("TLS cannot be set up")]
    SetUp(#[source] rustls::Error),
}

/// What new connections are told, shared by all cores.
pub struct TlsConfiguration {
    files: TlsFiles,
    /// Held for as long as it takes to count a reference.
    current: RwLock<Arc<ServerConfig>>,
}

impl TlsConfiguration {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError`], with the setting that is to blame.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads both files again. Connections that begin from now on are shown what is in them now; on an error nothing
    /// has changed.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// Where the certificate comes from.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sessions are resumed by tickets alone, which any core can read: their keys change every six hours, and are kept as
/// long again. A new certificate has new ones, so that no session outlives the certificate that it was begun with by
/// a ticket.
fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let certified = read_certified_key(files)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::SetUp)?;
    let mut config =
        builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = Ticketer::new().map_err(TlsError::SetUp)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn read_certified_key(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    const CERTIFICATE: &str = "TLS_CERT_FILE";
    const KEY: &str = "TLS_KEY_FILE";
    let (certificate, key) = (&files.certificate, &files.key);
    let not_pem = |setting, path: &Path, wanted, source| {
        let path = path.to_owned();
        TlsError::NotPem { setting, path, wanted, source }
    };
    let unusable = |setting, path: &Path, source| {
        let path = path.to_owned();
        TlsError::Unusable { setting, path, source }
    };

    let pem = read_file(CERTIFICATE, certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| not_pem(CERTIFICATE, certificate, "certificate", Some(error)))?;
    if chain.is_empty() {
        return Err(not_pem(CERTIFICATE, certificate, "certificate", None));
    }
    let pem = read_file(KEY, key)?;
    let private_key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => not_pem(KEY, key, "private key", None),
        error => not_pem(KEY, key, "private key", Some(error)),
    })?;

    let provider = default_provider();
    let signing_key = provider.key_provider.load_private_key(private_key);
    let certified = CertifiedKey::new(chain, signing_key.map_err(|error| unusable(KEY, key, error))?);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsError::Mismatch { key: key.clone(), certificate: certificate.clone() })
        }
        Err(error) => Err(unusable(CERTIFICATE, certificate, error)),
    }
}

fn read_file(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    let read = read.and_then(|_| match bytes.len() as u64 {
        ..=PEM_BYTES_MAX => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB")),
    });
    match read {
        Ok(()) => Ok(bytes),
        Err(source) => Err(TlsError::Read { setting, path: path.to_owned(), source }),
    }
}
