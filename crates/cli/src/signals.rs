//! When this process is asked to end: Ctrl-C, or SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves at the first request to end. The signals are watched from the first poll on.
pub(crate) async fn to_stop() {
    let (interrupt, terminate) = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            // The default action of the signals still ends the process, less gently.
            crate::show::remark(&format!("signals cannot be watched: {error}"));
            return std::future::pending().await;
        }
    };
    either(interrupt, terminate).await;
}

async fn either(mut one: Signal, mut other: Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
