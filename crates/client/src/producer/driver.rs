//! The task behind a producer: keeps a stream open to some node and the window moving.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ticketrail_proto::v1;
use ticketrail_proto::v1::publish_stream_request::Frame as Out;
use ticketrail_proto::v1::publish_stream_response::Frame as In;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::setbacks::Counters;
use super::window::{Progress, Window};
use super::{Command, OpenedProducer, Reply};
use crate::client::Client;
use crate::convert::millis;
use crate::error::{Error, Result};
use crate::pool::{Pick, StreamCount};
use crate::publish::Published;
use crate::retry::{Backoff, TurnedAway};

/// How many messages may be unconfirmed, whatever the server would allow.
const UNCONFIRMED_MAX: usize = 1_024;
/// Frames between the driver and the connection.
const FRAMES_MAX: usize = 4;
/// How long opening a stream may take before another node is asked.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the leader may take to open the stream that another node has opened already.
const LEADER_OPEN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long sent messages may go without any frame from the server before another node is asked.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a clean end may take.
const END_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    client: Client,
    opened: OpenedProducer,
    give_up_after: Duration,
    commands: mpsc::Receiver<Command>,
    failure: Arc<OnceLock<Error>>,
    setbacks: Arc<Counters>,
    window: Window<Reply>,
    /// Since when nothing was confirmed although something was wanted.
    stuck_since: Option<Instant>,
    closing: bool,
}

/// One open stream.
struct Session {
    /// Of the node among the endpoints.
    index: usize,
    outbound: mpsc::Sender<v1::PublishStreamRequest>,
    inbound: Streaming<v1::PublishStreamResponse>,
    endpoint: String,
    /// `host:port` of the leader, where it is another node.
    leader_address: String,
    credit_messages: usize,
    credit_bytes: usize,
    blocked: bool,
    not_before: Option<Instant>,
    last_frame: Instant,
    last_refusal: Option<Error>,
    _count: StreamCount,
}

/// How a session ended.
enum End {
    /// The handle is gone and everything is decided.
    Closed,
    /// Connect again.
    Broken(Error),
    /// The node stops, and all that it took is confirmed: connect to another one.
    Left,
    /// No message can be stored any more.
    Fatal(Error),
}

fn answer(reply: Reply, result: Result<Published>) {
    // Whoever asked may have stopped waiting: the message is stored all the same.
    let _ = reply.send(result);
}

impl Driver {
    pub(super) fn new(
        client: Client,
        opened: OpenedProducer,
        first_sequence: u64,
        (give_up_after, strict): (Duration, bool),
        commands: mpsc::Receiver<Command>,
        (failure, setbacks): (&Arc<OnceLock<Error>>, &Arc<Counters>),
    ) -> Self {
        Self {
            client,
            opened,
            give_up_after,
            commands,
            failure: failure.clone(),
            setbacks: setbacks.clone(),
            window: Window::new(first_sequence, strict),
            stuck_since: None,
            closing: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut turned_away = TurnedAway::default();
        loop {
            // No stream is opened before there is something to send.
            if self.window.is_empty() && !self.wait_for_work().await {
                return;
            }
            let error = match self.session(&mut backoff).await {
                End::Closed => return,
                End::Fatal(error) => return self.fail(error),
                End::Broken(error) => error,
                End::Left => {
                    turned_away.reset();
                    continue;
                }
            };
            if self.is_stuck_for_too_long() || !error_invites_retry(&error) {
                return self.fail(error);
            }
            self.setbacks.note(&error);
            let shared = &self.client.shared;
            let pause = match turned_away.ask_next(&error, shared.pool.len()) {
                true => Duration::ZERO,
                false => backoff.next_within(&shared.stream_budget, error.retry_after()),
            };
            let pause = pause.min(self.give_up_after);
            tell_broken(&error, pause, self.window.len());
            tokio::time::sleep(pause).await;
        }
    }

    /// `false` where nothing will come any more.
    async fn wait_for_work(&mut self) -> bool {
        self.stuck_since = None;
        match self.commands.recv().await {
            Some(command) => {
                self.accept(command);
                true
            }
            None => false,
        }
    }

    fn accept(&mut self, command: Command) {
        self.stuck_since.get_or_insert_with(Instant::now);
        self.window.push(command.item, command.reply);
    }

    fn is_stuck_for_too_long(&self) -> bool {
        self.stuck_since.is_some() && self.patience().is_zero()
    }

    fn fail(mut self, error: Error) {
        let unconfirmed = self.window.len();
        tracing::warn!(%error, reason = error.reason(), unconfirmed, "producer ended");
        let _ = self.failure.set(error.clone());
        self.commands.close();
        self.window.fail(&error, answer);
        while let Ok(command) = self.commands.try_recv() {
            answer(command.reply, Err(error.clone()));
        }
    }

    async fn session(&mut self, backoff: &mut Backoff) -> End {
        let pick = self.client.shared.pool.pick(Instant::now());
        let mut index = pick.index;
        let limit = OPEN_TIMEOUT.min(self.patience());
        let opened = match tokio::time::timeout(limit, self.open(pick.clone())).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::timed_out(&pick.endpoint, limit)),
        };
        let end = match opened {
            Ok(session) => {
                let mut session = self.towards_leader(session).await;
                index = session.index;
                tracing::debug!(endpoint = session.endpoint, "publish stream opened");
                self.window.restart();
                self.drive(&mut session, backoff).await
            }
            Err(error) => End::Broken(error),
        };
        let pool = &self.client.shared.pool;
        match &end {
            // A stream breaks for what is wrong with its node, whatever the words.
            End::Broken(error) if error.names_others() => pool.note(index, error, Instant::now()),
            End::Broken(_) => pool.failed(index, Instant::now()),
            End::Left | End::Closed | End::Fatal(_) => {}
        }
        end
    }

    /// The same stream at the leader, which spares each message a way; this one where that fails.
    async fn towards_leader(&self, session: Session) -> Session {
        let pool = &self.client.shared.pool;
        let leader = pool.leader(&session.leader_address, Instant::now());
        // Behind a tunnel or a balancer one address may be any node.
        let Some(leader) = leader.filter(|leader| leader.index != session.index) else {
            return session;
        };
        let (index, endpoint) = (leader.index, leader.endpoint.clone());
        let limit = LEADER_OPEN_TIMEOUT.min(self.patience());
        let opened = tokio::time::timeout(limit, self.open(leader)).await;
        let refused = match opened {
            Ok(Ok(at_leader)) => return at_leader,
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let now = Instant::now();
        pool.hesitates(index, now);
        if let Some(error) = &refused {
            pool.note(index, error, now);
        }
        tracing::debug!(endpoint, error = ?refused, "the leader opens no stream; staying here");
        session
    }

    /// How long it may still take until something is confirmed.
    fn patience(&self) -> Duration {
        let waited = self
            .stuck_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        self.give_up_after.saturating_sub(waited)
    }

    async fn open(&self, pick: Pick) -> Result<Session> {
        let Pick {
            index,
            endpoint,
            channel,
        } = pick;
        let (outbound, frames) = mpsc::channel(FRAMES_MAX);
        let open = v1::PublishOpen {
            namespace: self.client.namespace.clone(),
            producer_id: self.opened.id.clone(),
            epoch: self.opened.epoch,
        };
        let first = v1::PublishStreamRequest {
            frame: Some(Out::Open(open)),
        };
        outbound
            .try_send(first)
            .expect("the channel is new and has room");
        let failed = |status: &tonic::Status| Error::from_status(status, &endpoint);
        let mut inbound = Client::publisher(channel)
            .publish_stream(ReceiverStream::new(frames))
            .await
            .map_err(|status| failed(&status))?
            .into_inner();
        loop {
            match inbound.message().await.map_err(|status| failed(&status))? {
                Some(v1::PublishStreamResponse {
                    frame: Some(In::Opened(opened)),
                }) => {
                    let pool = &self.client.shared.pool;
                    pool.succeeded(index);
                    return Ok(Session {
                        _count: pool.count_stream(index),
                        index,
                        outbound,
                        inbound,
                        endpoint,
                        leader_address: opened.leader_address,
                        credit_messages: opened.credit_messages as usize,
                        credit_bytes: usize::try_from(opened.credit_bytes).unwrap_or(usize::MAX),
                        blocked: false,
                        not_before: None,
                        last_frame: Instant::now(),
                        last_refusal: None,
                    });
                }
                Some(_) => {}
                None => return Err(session_ended(&endpoint)),
            }
        }
    }

    async fn drive(&mut self, session: &mut Session, backoff: &mut Backoff) -> End {
        let outbound = session.outbound.clone();
        loop {
            if self.window.is_empty() && self.closing {
                drop(outbound);
                return self.end(session).await;
            }
            if self.is_stuck_for_too_long() {
                let error = session.last_refusal.take();
                return End::Fatal(
                    error
                        .unwrap_or_else(|| Error::timed_out(&session.endpoint, self.give_up_after)),
                );
            }
            let now = Instant::now();
            let count = session.sendable(&self.window, now);
            let room = self.window.len() < UNCONFIRMED_MAX;
            let wake = session.wake(now);
            tokio::select! {
                biased;
                frame = session.inbound.message() => match frame {
                    Ok(Some(response)) => {
                        if let Some(end) = self.handle(session, response, backoff) {
                            return end;
                        }
                    }
                    Ok(None) => return End::Broken(session_ended(&session.endpoint)),
                    Err(status) => return End::Broken(Error::from_status(&status, &session.endpoint)),
                },
                command = self.commands.recv(), if room && !self.closing => {
                    self.take_commands(command, session);
                }
                permit = outbound.reserve(), if count > 0 => {
                    if let Ok(permit) = permit {
                        let batch = self.window.take_frame(count);
                        tracing::trace!(first_sequence = batch.first_sequence, messages = count, "sent");
                        permit.send(v1::PublishStreamRequest { frame: Some(Out::Batch(batch)) });
                    }
                }
                () = tokio::time::sleep(wake) => {
                    if self.window.is_waiting() && session.last_frame.elapsed() >= SILENCE_MAX {
                        return End::Broken(Error::timed_out(&session.endpoint, SILENCE_MAX));
                    }
                }
            }
        }
    }

    /// Takes the command, and all that wait behind it, so that frames are full.
    fn take_commands(&mut self, first: Option<Command>, session: &mut Session) {
        if !self.window.is_waiting() {
            session.last_frame = Instant::now();
        }
        let Some(first) = first else {
            self.closing = true;
            return;
        };
        self.accept(first);
        while self.window.len() < UNCONFIRMED_MAX {
            match self.commands.try_recv() {
                Ok(command) => self.accept(command),
                Err(_) => return,
            }
        }
    }

    fn handle(
        &mut self,
        session: &mut Session,
        response: v1::PublishStreamResponse,
        backoff: &mut Backoff,
    ) -> Option<End> {
        session.last_frame = Instant::now();
        match response.frame {
            Some(In::Confirm(confirm)) => {
                tracing::trace!(through_sequence = confirm.through_sequence, "confirmed");
                let before = self.window.len();
                let progress = self.window.confirm(confirm, answer);
                if self.window.len() < before {
                    backoff.reset();
                    session.last_refusal = None;
                    self.stuck_since = (!self.window.is_empty()).then(Instant::now);
                }
                match progress {
                    Progress::Going => {}
                    Progress::Later(error) => {
                        self.setbacks.note(&error);
                        let pause = backoff.next(error.retry_after());
                        let reason = error.reason();
                        tracing::debug!(reason, pause_ms = millis(pause), "refused for now");
                        session.not_before = Some(Instant::now() + pause);
                        session.last_refusal = Some(error);
                    }
                    Progress::Fatal(error) => return Some(End::Fatal(error)),
                }
            }
            Some(In::Flow(flow)) => {
                if flow.blocked && !session.blocked {
                    self.setbacks.told_to_pause();
                    tracing::debug!(reason = flow.reason, "told to pause");
                }
                session.blocked = flow.blocked;
                if flow.blocked {
                    // What is told where the pause outlasts the caller's patience.
                    let message = "the node takes no messages at the moment";
                    let code = tonic::Code::ResourceExhausted;
                    session.last_refusal = Some(Error::new(code, &flow.reason, message));
                }
                session.credit_messages = flow.credit_messages as usize;
                session.credit_bytes = usize::try_from(flow.credit_bytes).unwrap_or(usize::MAX);
            }
            Some(In::GoAway(go_away)) => {
                tracing::debug!(
                    endpoint = session.endpoint,
                    "the node stops; going to another one"
                );
                let addresses = go_away.addresses.iter().map(String::as_str);
                let pool = &self.client.shared.pool;
                pool.leaves(session.index, addresses, Instant::now());
                self.window.not_taken();
                return Some(End::Left);
            }
            Some(In::Opened(_)) | None => {}
        }
        None
    }

    /// Everything is decided: closes our side and waits for the server to close its own.
    async fn end(&mut self, session: &mut Session) -> End {
        let (closed, _) = mpsc::channel(1);
        session.outbound = closed;
        let rest = async { while let Ok(Some(_)) = session.inbound.message().await {} };
        let _ = tokio::time::timeout(END_TIMEOUT, rest).await;
        End::Closed
    }
}

impl Session {
    fn sendable(&self, window: &Window<Reply>, now: Instant) -> usize {
        let waits = self.not_before.is_some_and(|until| until > now);
        if self.blocked || waits {
            return 0;
        }
        window.sendable(self.credit_messages, self.credit_bytes)
    }

    /// When to look again if nothing happens.
    fn wake(&self, now: Instant) -> Duration {
        let pause = self
            .not_before
            .and_then(|until| until.checked_duration_since(now));
        pause
            .filter(|pause| !pause.is_zero())
            .unwrap_or(Duration::from_secs(1))
    }
}

/// A stream that ends with one of these may do better elsewhere or later.
fn error_invites_retry(error: &Error) -> bool {
    error.is_retryable() || error.is_connection()
}

fn session_ended(endpoint: &str) -> Error {
    let message = format!("{endpoint} ended the stream");
    Error::new(
        tonic::Code::Unavailable,
        crate::error::CONNECTION_BROKEN,
        message,
    )
}

fn tell_broken(error: &Error, pause: Duration, unconfirmed: usize) {
    tracing::warn!(
        %error,
        reason = error.reason(),
        pause_ms = millis(pause),
        unconfirmed,
        "publish stream broke; opening another one"
    );
}
