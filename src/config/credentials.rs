//! Whom a server lets in: the mode, and what tokens are verified with.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::ConfigError;
use crate::application::credentials::{
    KeyError, TokenAlgorithm, TokenVerifier, UrlSigningKeys, VerificationKeys,
};

/// The largest file with keys, or with the URL of a database.
const KEY_FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Args)]
#[command(next_help_heading = "Credentials")]
pub(super) struct CredentialArguments {
    /// Who may do what. Without credentials, say so in words: none [default: required; with --dev, no JWT_… and no URL_SIGNING_KEY: none]
    #[arg(long, env, value_enum)]
    auth_mode: Option<AuthMode>,
    /// The secret that tokens are signed with (HS256), of 32 bytes at least
    #[arg(long, env, value_name = "SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// A file with such secrets, one a line; each file with keys is read again on SIGHUP
    #[arg(long, env, value_name = "FILE")]
    jwt_secret_file: Option<PathBuf>,
    /// A file with the public keys of who signs tokens, in PEM
    #[arg(long, env, value_name = "FILE")]
    jwt_public_key_file: Option<PathBuf>,
    /// A file with the keys of who signs tokens, as a JSON Web Key Set
    #[arg(long, env, value_name = "FILE")]
    jwt_jwks_file: Option<PathBuf>,
    /// How tokens are signed: HS256, RS256, ES256 or EdDSA; no token is taken that says otherwise [default: HS256 with a secret]
    #[arg(long, env, value_name = "NAME")]
    jwt_algorithm: Option<TokenAlgorithm>,
    /// Who tokens have to be from (iss) [default: whoever has a key]
    #[arg(long, env, value_name = "NAME")]
    jwt_issuer: Option<String>,
    /// Whom tokens have to be for (aud) [default: anyone]
    #[arg(long, env, value_name = "NAME")]
    jwt_audience: Option<String>,
    /// The secret that URLs are signed with, of 32 bytes at least; the same on all servers of a database [default: none are signed]
    #[arg(long, env, value_name = "SECRET", hide_env_values = true)]
    url_signing_key: Option<String>,
    /// A file with one or two such secrets, one a line: the first one signs, both verify
    #[arg(long, env, value_name = "FILE")]
    url_signing_key_file: Option<PathBuf>,
}

/// Whether credentials are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Every request needs one
    Required,
    /// Whoever reaches the port may do everything
    None,
}

/// Whom a server lets in.
#[derive(Debug, Clone)]
pub enum Authentication {
    /// Everybody.
    None,
    /// Whoever shows an API key, or a token where it is said how those are verified.
    Required {
        /// How tokens are verified.
        tokens: Option<TokenSettings>,
    },
}

/// How tokens are verified: what was said, from which [`load`](Self::load) makes a verifier as often as it is wanted.
#[derive(Clone)]
pub struct TokenSettings {
    source: KeySource,
    algorithm: TokenAlgorithm,
    issuer: Option<String>,
    audience: Option<String>,
}

/// The secrets that URLs are signed with: what was said, from which [`load`](Self::load) makes them.
#[derive(Clone)]
pub enum UrlSigningSettings {
    /// The secret itself.
    Secret(String),
    /// The file that they are in.
    File(PathBuf),
}

/// Where the keys are.
#[derive(Clone)]
enum KeySource {
    Secret(String),
    SecretFile(PathBuf),
    PublicKeyFile(PathBuf),
    KeySetFile(PathBuf),
}

impl KeySource {
    const fn setting(&self) -> &'static str {
        match self {
            Self::Secret(_) => "JWT_SECRET",
            Self::SecretFile(_) => "JWT_SECRET_FILE",
            Self::PublicKeyFile(_) => "JWT_PUBLIC_KEY_FILE",
            Self::KeySetFile(_) => "JWT_JWKS_FILE",
        }
    }
}

/// Without what may be a secret.
impl std::fmt::Debug for TokenSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} by {}", self.algorithm.as_str(), self.source.setting())
    }
}

/// Without what may be a secret.
impl std::fmt::Debug for UrlSigningSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.setting())
    }
}

impl UrlSigningSettings {
    const fn setting(&self) -> &'static str {
        match self {
            Self::Secret(_) => "URL_SIGNING_KEY",
            Self::File(_) => "URL_SIGNING_KEY_FILE",
        }
    }

    /// Reads the secrets as they are now.
    ///
    /// # Errors
    /// [`ConfigError::KeyFile`] or [`ConfigError::Keys`].
    pub fn load(&self) -> Result<UrlSigningKeys, ConfigError> {
        let setting = self.setting();
        let keys = match self {
            Self::Secret(secret) => UrlSigningKeys::of_secrets(secret),
            Self::File(path) => UrlSigningKeys::of_secrets(&read_file(setting, path)?),
        };
        keys.map_err(|source| ConfigError::Keys { setting, source })
    }
}

impl CredentialArguments {
    /// How URLs are signed, if they are. The secrets are there and good.
    pub(super) fn url_signing(&self) -> Result<Option<UrlSigningSettings>, ConfigError> {
        let settings = match (self.url_signing_key.clone(), self.url_signing_key_file.clone()) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::TwoKeySources("URL_SIGNING_KEY", "URL_SIGNING_KEY_FILE"));
            }
            (Some(secret), None) => Some(UrlSigningSettings::Secret(secret)),
            (None, Some(path)) => Some(UrlSigningSettings::File(path)),
            (None, None) => None,
        };
        settings.as_ref().map(UrlSigningSettings::load).transpose()?;
        Ok(settings)
    }

    /// Checks what goes together, and that the keys are there and good.
    pub(super) fn authentication(
        self,
        dev: bool,
        listen_addr: SocketAddr,
        url_signing: Option<&UrlSigningSettings>,
    ) -> Result<Authentication, ConfigError> {
        let mode = self.auth_mode;
        let tokens = self.token_settings()?;
        // Who has set up keys does not mean to let in everybody.
        let set_up = tokens.as_ref().map(|tokens| tokens.source.setting());
        let set_up = set_up.or(url_signing.map(UrlSigningSettings::setting));
        match (mode, set_up) {
            (Some(AuthMode::None), Some(setting)) => Err(ConfigError::CredentialsNotAsked(setting)),
            (Some(AuthMode::None), None) => Ok(Authentication::None),
            (None, None) if dev && listen_addr.ip().is_loopback() => Ok(Authentication::None),
            (None, None) if dev => Err(ConfigError::OpenToOthers(listen_addr)),
            (Some(AuthMode::Required) | None, _) => {
                tokens.as_ref().map(TokenSettings::load).transpose()?;
                Ok(Authentication::Required { tokens })
            }
        }
    }

    fn token_settings(self) -> Result<Option<TokenSettings>, ConfigError> {
        let mut sources = [
            self.jwt_secret.map(KeySource::Secret),
            self.jwt_secret_file.map(KeySource::SecretFile),
            self.jwt_public_key_file.map(KeySource::PublicKeyFile),
            self.jwt_jwks_file.map(KeySource::KeySetFile),
        ]
        .into_iter()
        .flatten();
        let (issuer, audience) = (self.jwt_issuer, self.jwt_audience);
        let Some(source) = sources.next() else {
            let without_keys = [
                ("JWT_ALGORITHM", self.jwt_algorithm.is_some()),
                ("JWT_ISSUER", issuer.is_some()),
                ("JWT_AUDIENCE", audience.is_some()),
            ];
            let named = without_keys.into_iter().find(|(_, is_set)| *is_set);
            return named.map_or(Ok(None), |(name, _)| Err(ConfigError::TokensWithoutKeys(name)));
        };
        if let Some(other) = sources.next() {
            return Err(ConfigError::TwoKeySources(source.setting(), other.setting()));
        }
        let is_secret = matches!(source, KeySource::Secret(_) | KeySource::SecretFile(_));
        let algorithm = match self.jwt_algorithm {
            None if is_secret => TokenAlgorithm::Hs256,
            None => return Err(ConfigError::NoAlgorithm(source.setting())),
            Some(algorithm) => algorithm,
        };
        let is_symmetric = algorithm == TokenAlgorithm::Hs256;
        if is_secret != is_symmetric && !matches!(source, KeySource::KeySetFile(_)) {
            return Err(ConfigError::WrongAlgorithm(algorithm.as_str(), source.setting()));
        }
        Ok(Some(TokenSettings { source, algorithm, issuer, audience }))
    }
}

impl TokenSettings {
    /// The setting that says where the keys are, and which file that is, if they are in one.
    pub fn source(&self) -> (&'static str, Option<&Path>) {
        let file = match &self.source {
            KeySource::Secret(_) => None,
            KeySource::SecretFile(path) | KeySource::PublicKeyFile(path) | KeySource::KeySetFile(path) => {
                Some(&**path)
            }
        };
        (self.source.setting(), file)
    }

    /// Reads the keys as they are now.
    ///
    /// # Errors
    /// [`ConfigError::KeyFile`] or [`ConfigError::Keys`].
    pub fn load(&self) -> Result<TokenVerifier, ConfigError> {
        let setting = self.source.setting();
        let keys = match &self.source {
            KeySource::Secret(secret) => VerificationKeys::of_secrets(secret),
            KeySource::SecretFile(path) => VerificationKeys::of_secrets(&read_file(setting, path)?),
            KeySource::PublicKeyFile(path) => {
                VerificationKeys::of_pem(self.algorithm, &read_file(setting, path)?)
            }
            KeySource::KeySetFile(path) => {
                VerificationKeys::of_key_set(self.algorithm, &read_file(setting, path)?)
            }
        };
        let keys = keys.map_err(|source: KeyError| ConfigError::Keys { setting, source })?;
        Ok(TokenVerifier::new(keys, self.issuer.clone(), self.audience.clone()))
    }
}

fn read_file(setting: &'static str, path: &Path) -> Result<String, ConfigError> {
    read(path).map_err(|source| ConfigError::KeyFile { setting, path: path.into(), source })
}

/// What is in a small file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 {
        ..=KEY_FILE_BYTES_MAX => Ok(text),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}
