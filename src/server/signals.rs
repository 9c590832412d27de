//! What the process is told from outside: to end, or to read again what came from files.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServerError;
use crate::application::credentials::CurrentVerifier;
use crate::config::TokenSettings;
use crate::infrastructure::data_plane::tls_configuration::TlsConfiguration;
use crate::maintenance::with_causes;
use crate::service_manager::ServiceManager;

/// What the process is told from outside. Each signal counts from here on, also before it is waited for.
pub(super) struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    /// Where there is nothing to read again, the end of a terminal ends the server as ever.
    hang_up: Option<(Signal, Renewable)>,
}

impl Signals {
    pub(super) fn catch(renewable: Option<Renewable>) -> Result<Self, ServerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ServerError::Threads)?;
        let entered = runtime.enter();
        let catch = |kind| signal(kind).map_err(ServerError::Threads);
        let terminate = catch(SignalKind::terminate())?;
        let interrupt = catch(SignalKind::interrupt())?;
        let hang_up = match renewable {
            Some(renewable) => Some((catch(SignalKind::hangup())?, renewable)),
            None => {
                // A service manager's reload must not end it: there is no terminal, and a signal that has been caught
                // once stays caught.
                if ServiceManager::is_there() {
                    drop(catch(SignalKind::hangup())?);
                }
                None
            }
        };
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hang_up })
    }

    /// Reads files again on SIGHUP. SIGTERM or SIGINT is `true`; a core that ends by itself is `false`.
    pub(super) fn wait_for_end(
        self,
        cores: &[JoinHandle<io::Result<()>>],
        manager: &mut ServiceManager,
    ) -> bool {
        const LOOK: Duration = Duration::from_millis(500);
        let Self { runtime, mut terminate, mut interrupt, mut hang_up } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return true,
                    _ = interrupt.recv() => return true,
                    renewable = hung_up(&mut hang_up) => {
                        manager.reloading();
                        renewable.renew();
                        manager.ready("serving");
                    }
                    () = tokio::time::sleep(LOOK) => {
                        if cores.iter().any(JoinHandle::is_finished) {
                            return false;
                        }
                        manager.note_life();
                    }
                }
            }
        })
    }
}

async fn hung_up(hang_up: &mut Option<(Signal, Renewable)>) -> &Renewable {
    match hang_up {
        Some((signal, renewable)) => {
            signal.recv().await;
            renewable
        }
        None => std::future::pending().await,
    }
}

/// What came from files and can be read from them again, while the server runs. What cannot be used there changes
/// nothing.
pub(super) struct Renewable {
    certificate: Option<Arc<TlsConfiguration>>,
    token_keys: Option<(TokenSettings, CurrentVerifier)>,
}

impl Renewable {
    /// `None` where nothing came from a file.
    pub(super) fn new(
        certificate: Option<Arc<TlsConfiguration>>,
        tokens: Option<&(&TokenSettings, CurrentVerifier)>,
    ) -> Option<Self> {
        let in_file = tokens.filter(|(settings, _)| settings.source().1.is_some());
        let token_keys = in_file.map(|(settings, verifier)| ((*settings).clone(), verifier.clone()));
        (certificate.is_some() || token_keys.is_some()).then_some(Self { certificate, token_keys })
    }

    fn renew(&self) {
        if let Some(tls) = &self.certificate {
            renew_certificate(tls);
        }
        if let Some((settings, current)) = &self.token_keys {
            renew_token_keys(settings, current);
        }
    }
}

fn renew_token_keys(settings: &TokenSettings, current: &CurrentVerifier) {
    match settings.load() {
        Ok(verifier) => {
            let (keys, (setting, _)) = (verifier.keys().count(), settings.source());
            current.replace(verifier);
            tracing::info!(keys, setting, "tokens are verified with the keys as they are now");
        }
        // It names the setting, and its cause too.
        Err(error) => tracing::error!(
            %error,
            "the keys of tokens cannot be read again; tokens are verified with the old ones"
        ),
    }
}

fn renew_certificate(tls: &TlsConfiguration) {
    let certificate = tls.files().certificate.display();
    match tls.reload() {
        Ok(()) => tracing::info!(%certificate, "new connections are shown the certificate as it is now"),
        Err(error) => {
            let error = with_causes(&error);
            tracing::error!(
                error,
                "the certificate cannot be read again; new connections are shown the old one"
            );
        }
    }
}
