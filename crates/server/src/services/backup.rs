//! `ClusterService.Backup`: a copy of this node, read from its disk as fast as the client takes it.

use std::sync::Arc;

use futures::StreamExt;
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::v1;
use ticketrail_proto::v1::backup_response::Frame;
use ticketrail_raft::{Source, SourceError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::stream::Frames;
use crate::convert;
use crate::limits;
use crate::node::{Node, SharedNode};

/// Frames that wait to be sent: one is read while another is sent.
const WAITING_MAX: usize = 2;

/// Begins a copy that holds all that was confirmed before; a leader must be there by `deadline`.
pub(super) fn begin(
    node: &SharedNode,
    deadline: Instant,
) -> Result<Frames<v1::BackupResponse>, Problem> {
    node.check_serving()?;
    node.check_quorum()?;
    let place = Arc::clone(&node.backups).try_acquire_owned();
    let place = place.map_err(|_| Problem::overloaded("backups at a time", limits::RETRY_AFTER))?;
    let (frames, sent) = mpsc::channel(WAITING_MAX);
    let sending = Sending {
        node: Arc::clone(node),
        frames,
        _place: place,
    };
    node.streams.spawn(sending.run(deadline));
    Ok(ReceiverStream::new(sent).boxed())
}

struct Sending {
    node: SharedNode,
    frames: mpsc::Sender<Result<v1::BackupResponse, Status>>,
    _place: OwnedSemaphorePermit,
}

/// Why a copy ended early.
enum End {
    /// The client is gone, or reads nothing.
    Gone,
    /// It is told.
    Problem(Problem),
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Sending {
    async fn run(self, deadline: Instant) {
        let ended = tokio::select! {
            ended = self.send_all(deadline) => ended,
            () = self.node.stopping.drains() => Err(self.node.shutting_down().into()),
            () = self.frames.closed() => Err(End::Gone),
        };
        match ended {
            Ok(()) => tracing::info!("a backup was sent"),
            Err(End::Gone) => tracing::info!("the client of a backup is gone, or does not read"),
            Err(End::Problem(problem)) => {
                tracing::warn!(%problem, "a backup was not sent to its end");
                let told = self.frames.send(Err(problem.into_status()));
                // A client that does not read does not see how its stream ended.
                let _ = timeout(limits::LAST_FRAMES_MAX, told).await;
            }
        }
    }

    async fn send_all(&self, deadline: Instant) -> Result<(), End> {
        let source = Arc::new(self.node.broker.export(deadline).await?);
        let begun = begun(&self.node, &source);
        tracing::info!(
            index = begun.last_index,
            state_bytes = begun.state_bytes,
            body_bytes_about = begun.body_bytes_about,
            "a backup begins"
        );
        self.send(Frame::Begun(begun)).await?;
        let state_bytes = self.send_state(&source).await?;
        let (body_count, body_bytes) = self.send_bodies(&source).await?;
        let ended = v1::BackupEnded {
            state_bytes,
            body_count,
            body_bytes,
        };
        self.send(Frame::Ended(ended)).await
    }

    async fn send_state(&self, source: &Arc<Source>) -> Result<u64, End> {
        let mut offset = 0;
        while offset < source.file_bytes() {
            let read = move |source: &Source| {
                let data = source.read_file(offset, limits::BACKUP_PIECE_BYTES)?;
                Ok(v1::BackupState::of(data))
            };
            let piece = blocking(source, read).await?;
            offset += piece.data.len() as u64;
            self.send(Frame::State(piece)).await?;
        }
        Ok(offset)
    }

    async fn send_bodies(&self, source: &Arc<Source>) -> Result<(u64, u64), End> {
        let (mut next, mut count, mut bytes) = (Some(0), 0, 0);
        while let Some(from) = next {
            let read = move |source: &Source| {
                let found = source.read_bodies(from, limits::BACKUP_PIECE_BYTES)?;
                let body = |(index, payload)| v1::BackupBody { index, payload };
                let bodies: Vec<_> = found.bodies.into_iter().map(body).collect();
                Ok((found.next_index, bodies))
            };
            let (after, bodies) = blocking(source, read).await?;
            next = after;
            if bodies.is_empty() {
                continue;
            }
            count += bodies.len() as u64;
            bytes += bodies
                .iter()
                .map(|body| body.payload.len() as u64)
                .sum::<u64>();
            let bodies = v1::BackupBodies::of(bodies);
            self.send(Frame::Bodies(bodies)).await?;
        }
        Ok((count, bytes))
    }

    async fn send(&self, frame: Frame) -> Result<(), End> {
        let frame = Ok(v1::BackupResponse { frame: Some(frame) });
        match timeout(limits::SLOW_READER_MAX, self.frames.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}

fn begun(node: &Node, source: &Source) -> v1::BackupBegun {
    v1::BackupBegun {
        cluster_id: convert::id_to_proto(node.cluster_id),
        node_id: node.id.0,
        last_index: source.last_index(),
        last_term: source.last_term(),
        state_bytes: source.file_bytes(),
        body_bytes_about: source.body_bytes(),
    }
}

async fn blocking<T: Send + 'static>(
    source: &Arc<Source>,
    read: impl FnOnce(&Source) -> Result<T, SourceError> + Send + 'static,
) -> Result<T, Problem> {
    let source = Arc::clone(source);
    let done = tokio::task::spawn_blocking(move || read(&source)).await;
    match done {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(SourceError::Gone)) => Err(too_slow()),
        Ok(Err(error)) => Err(unreadable(&error)),
        Err(error) => Err(unreadable(&error)),
    }
}

fn too_slow() -> Problem {
    let message = "the backup was read so slowly that what it refers to is not kept any more; take it again over a faster \
         way, while less is written, or with a larger `snapshots.hold_bytes_max`";
    Problem::new(Reason::BackupTooSlow, message)
}

fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    let message =
        format!("this node cannot read its own copy ({error}); take the backup from another node");
    Problem::new(Reason::Corrupt, message)
}
