//! Where connections come into a core: each is accepted by one core and served by the one with the fewest.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::cores::CoreService;
use crate::api::connection::{refuse, serve};
use crate::infrastructure::data_plane::core_shares::{CoreShare, CoreShares};
use crate::infrastructure::data_plane::runtime::{Listener, Stream, StreamInTransit, sleep, spawn};
use crate::infrastructure::data_plane::tls::TlsAcceptor;

/// How long a core waits before it accepts again when there are no descriptors left.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection for another core than the one that accepted it, and its place there.
pub(super) type Arrival = (StreamInTransit, CoreShare);

/// Where connections come into a core.
pub(super) struct Door {
    pub(super) index: usize,
    pub(super) service: Rc<CoreService>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) shares: CoreShares,
    pub(super) arrivals: Vec<mpsc::Sender<Arrival>>,
}

impl Door {
    /// Accepts connections, for whichever core has the fewest.
    pub(super) async fn accept(&self, listener: Listener) {
        let mut failed_before = false;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    failed_before = false;
                    self.place(stream);
                }
                Err(error) => {
                    // Told once, and not at every try, until there is a descriptor again.
                    if !std::mem::replace(&mut failed_before, true) {
                        tracing::warn!(%error, "cannot accept a connection; trying on");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes the connections that other cores have accepted for this one.
    pub(super) async fn take_arrivals(&self, arriving: &mut mpsc::Receiver<Arrival>) {
        while let Some(arrival) = arriving.recv().await {
            self.arrive(arrival);
        }
    }

    fn place(&self, stream: Stream) {
        let share = self.shares.claim(self.index);
        if share.core() == self.index {
            return self.admit(stream, share);
        }
        // The core is going down, or has very many to take: it stays here.
        let Ok(permit) = self.arrivals[share.core()].try_reserve() else {
            return self.admit(stream, share);
        };
        match stream.depart() {
            Ok(stream) => permit.send((stream, share)),
            // It takes a second descriptor to hand one over, and there is none: it stays here too.
            Err(stream) => self.admit(*stream, share),
        }
    }

    /// Takes over one of them.
    pub(super) fn arrive(&self, (stream, share): Arrival) {
        match stream.arrive() {
            Ok(stream) => self.admit(stream, share),
            Err(error) => tracing::warn!(%error, "cannot take over a connection"),
        }
    }

    fn admit(&self, mut stream: Stream, share: CoreShare) {
        // Without it answers are only later, not wrong.
        let _ = stream.set_nodelay();
        if let Some(Err(error)) = self.tls.as_ref().map(|tls| tls.accept(&mut stream)) {
            return tracing::warn!(%error, "cannot begin a TLS handshake");
        }
        let service = self.service.clone();
        match service.table.register(stream.shut_down_handle()) {
            Some(registration) => drop(spawn(async move {
                serve(service, stream, registration).await;
                drop(share);
            })),
            None => {
                service.metrics.refuse_connection();
                if let Some(place) = service.table.refusal_place() {
                    drop(spawn(refuse(service, stream, place)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SystemClock;
    use crate::infrastructure::data_plane::metadata_client::MetadataClient;
    use crate::infrastructure::storage::FileStore;

    /// What each connection holds from its beginning to its end, besides what it receives into.
    const CONNECTION_BYTES_MAX: usize = 5 * 1024;

    #[test]
    fn a_connection_holds_the_state_of_a_download_and_of_nothing_larger() {
        fn size_of_output<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_output(serve::<FileStore, MetadataClient, SystemClock>);
        assert!(bytes <= CONNECTION_BYTES_MAX, "{bytes}");
    }
}
