//! When this process is asked to end: Ctrl-C, or SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Resolves at the first request to end. The signals are watched from the first poll on.
pub(crate) async fn to_stop() {
    match watched() {
        Some((mut interrupt, mut terminate)) => either(&mut interrupt, &mut terminate).await,
        None => std::future::pending().await,
    }
}

/// As [`to_stop`]; who asks again ends the process at once, as a crash would, which loses nothing
/// that was confirmed.
pub(crate) async fn to_stop_or_end() {
    let Some((mut interrupt, mut terminate)) = watched() else {
        return std::future::pending().await;
    };
    either(&mut interrupt, &mut terminate).await;
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        tracing::warn!("asked to stop again: ending at once");
        std::process::exit(Failure::AT_ONCE.into());
    });
}

fn watched() -> Option<(Signal, Signal)> {
    match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => Some((interrupt, terminate)),
        (Err(error), _) | (_, Err(error)) => {
            // The default action of the signals still ends the process, less gently.
            crate::show::remark(&format!("signals cannot be watched: {error}"));
            None
        }
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
