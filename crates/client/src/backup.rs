//! A copy of everything that a cluster holds, as one of its nodes sends it.

use std::time::Duration;

use bytes::Bytes;
use ticketrail_proto::v1;
use ticketrail_proto::v1::backup_response::Frame;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::client::Client;
use crate::error::{Error, Result};

/// Longest wait for the next frame. The first comes when the node has written its state to a file.
const FRAME_WAIT_MAX: Duration = Duration::from_secs(120);

/// A copy that is being made. It is whole only when [`Backup::next`] has said that it came to its end.
#[derive(Debug)]
pub struct Backup {
    begun: v1::BackupBegun,
    frames: Streaming<v1::BackupResponse>,
    endpoint: String,
    received: v1::BackupEnded,
    last_index: Option<u64>,
}

/// A part of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPart {
    /// The next bytes of the state.
    State(Bytes),
    /// The next bodies, by log index and payload.
    Bodies(Vec<(u64, Bytes)>),
}

impl Client {
    /// Asks one node, once, for a copy that holds all that was confirmed before. Give the client one
    /// endpoint to choose the node: a follower has more time for it.
    ///
    /// # Errors
    /// `OVERLOADED` where the node makes a backup already; no leader; no answer.
    pub async fn backup(&self) -> Result<Backup> {
        let pick = self.shared.pool.pick(Instant::now());
        let failed = |status: &Status| Error::from_status(status, &pick.endpoint);
        let mut service = Self::cluster_service(pick.channel.clone());
        let asked = in_time(service.backup(v1::BackupRequest {})).await;
        let mut frames = asked.map_err(|status| failed(&status))?.into_inner();
        let first = in_time(frames.message()).await;
        match first.map_err(|status| failed(&status))? {
            Some(v1::BackupResponse {
                frame: Some(Frame::Begun(begun)),
            }) => Ok(Backup {
                begun,
                frames,
                endpoint: pick.endpoint,
                received: v1::BackupEnded::default(),
                last_index: None,
            }),
            _ => Err(broken(&pick.endpoint, "it does not begin as it should")),
        }
    }
}

impl Backup {
    /// What the copy is of.
    pub fn begun(&self) -> &v1::BackupBegun {
        &self.begun
    }

    /// The next part, checked; none when the copy is whole.
    ///
    /// # Errors
    /// Whatever ended it early. What came is of no use then.
    pub async fn next(&mut self) -> Result<Option<BackupPart>> {
        let next = in_time(self.frames.message()).await;
        let next = next.map_err(|status| Error::from_status(&status, &self.endpoint))?;
        match next.and_then(|response| response.frame) {
            Some(Frame::State(state)) if state.is_intact() => {
                self.received.state_bytes += state.data.len() as u64;
                Ok(Some(BackupPart::State(state.data)))
            }
            Some(Frame::Bodies(bodies)) if bodies.is_intact() => self.bodies(bodies).map(Some),
            Some(Frame::State(_) | Frame::Bodies(_)) => Err(self.broken("a frame fails its check")),
            Some(Frame::Ended(ended)) if ended == self.received => Ok(None),
            Some(Frame::Ended(_)) => Err(self.broken("frames are missing")),
            Some(Frame::Begun(_)) => Err(self.broken("it begins twice")),
            None => Err(self.broken("it ends early")),
        }
    }

    fn bodies(&mut self, bodies: v1::BackupBodies) -> Result<BackupPart> {
        let mut part = Vec::with_capacity(bodies.bodies.len());
        for body in bodies.bodies {
            if self.last_index.is_some_and(|last| last >= body.index) {
                return Err(self.broken("bodies are out of order"));
            }
            self.last_index = Some(body.index);
            self.received.body_count += 1;
            self.received.body_bytes += body.payload.len() as u64;
            part.push((body.index, body.payload));
        }
        Ok(BackupPart::Bodies(part))
    }

    fn broken(&self, what: &str) -> Error {
        broken(&self.endpoint, what)
    }
}

fn broken(endpoint: &str, what: &str) -> Error {
    let message = format!("{endpoint} sent no whole copy: {what}");
    Error::new(Code::DataLoss, "CORRUPT", message)
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(FRAME_WAIT_MAX, answer).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no frame came")))
}
