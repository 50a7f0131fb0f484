//! Consumers: attaching, moving, losing the connection, ending.

use ticketrail_core::command::{
    AdmitNode, AttachConsumer, DetachConsumer, NodeBooted, RetireNode, SessionsLost, SetPrefetch,
};
use ticketrail_core::event::{Event, SessionEnd};
use ticketrail_core::outcome::{Outcome, Rejection};
use ticketrail_core::{Offset, Owner, QueueId, SessionId, limits};

use super::state::{Model, Session, Standing};
use super::{Answer, normal::invalid};

impl Model {
    pub(super) fn attach(&mut self, c: &AttachConsumer) -> Answer {
        if !(1..=limits::PREFETCH_MAX).contains(&c.prefetch) {
            return Err(invalid("prefetch"));
        }
        let leases = 1..=limits::LEASE_MS_MAX;
        if c.lease_ms.is_some_and(|ms| !leases.contains(&ms)) {
            return Err(invalid("lease_ms"));
        }
        let queue = self.need_queue(&c.namespace, &c.queue)?.id;
        let resumed = self.sessions.contains_key(&c.session);
        if resumed {
            self.move_session(queue, c)?;
        } else {
            if self.sessions.len() >= limits::SESSIONS_MAX {
                let (what, limit) = ("sessions", limits::SESSIONS_MAX as u64);
                return Err(Rejection::TooMany { what, limit });
            }
        }
        let session = Session {
            queue,
            owner: c.owner,
            grace: None,
            prefetch: c.prefetch,
            lease_ms: c.lease_ms,
        };
        self.sessions.insert(c.session, session);
        self.line_up(Some(c.session));
        let holds = self.queues[&queue].messages.iter();
        let holds = holds.filter(|m| m.holder() == Some(c.session));
        let held = holds.filter_map(|m| m.grant(queue)).collect();
        Ok(Outcome::Attached {
            queue,
            resumed,
            held,
        })
    }

    fn move_session(&mut self, queue: QueueId, c: &AttachConsumer) -> Result<(), Rejection> {
        let before = self.sessions[&c.session];
        if before.queue != queue {
            return Err(invalid("queue"));
        }
        let same_process = before.owner.node == c.owner.node && before.owner.boot == c.owner.boot;
        if same_process && c.owner.connection < before.owner.connection {
            self.reached("late attach of an older connection");
            return Err(Rejection::SessionNotFound);
        }
        if before.owner != c.owner {
            self.events.push(Event::SessionMoved {
                session: c.session,
                from: before.owner,
            });
        }
        if before.grace.is_some() {
            self.reached("session came back within its grace");
        }
        Ok(())
    }

    /// The session, if this very connection serves it.
    fn owned(&self, session: SessionId, owner: Owner) -> Result<Session, Rejection> {
        let found = self.sessions.get(&session).copied();
        let found = found.filter(|s| s.owner == owner);
        found.ok_or(Rejection::SessionNotFound)
    }

    pub(super) fn set_prefetch(&mut self, c: &SetPrefetch) -> Answer {
        if c.prefetch > limits::PREFETCH_MAX {
            return Err(invalid("prefetch"));
        }
        let mut session = self.owned(c.session, c.owner)?;
        if session.grace.is_some() {
            return Err(Rejection::SessionNotFound);
        }
        session.prefetch = c.prefetch;
        self.sessions.insert(c.session, session);
        self.line_up(Some(c.session));
        Ok(Outcome::Done)
    }

    pub(super) fn detach(&mut self, c: &DetachConsumer) -> Answer {
        self.owned(c.session, c.owner)?;
        if c.release {
            self.tell_lost(c.session);
            self.give_back(c.session);
            self.forget_session(c.session, SessionEnd::Closed);
        } else {
            self.start_grace(c.session);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn node_booted(&mut self, c: &NodeBooted) -> Answer {
        let gone = |owner: Owner| owner.node == c.node && owner.boot != c.boot;
        self.start_grace_of(gone);
        Ok(Outcome::Done)
    }

    pub(super) fn sessions_lost(&mut self, c: &SessionsLost) -> Answer {
        let gone = |owner: Owner| owner.node == c.node && owner.boot == c.boot;
        self.start_grace_of(gone);
        Ok(Outcome::Done)
    }

    pub(super) fn admit_node(&mut self, c: &AdmitNode) -> Answer {
        if c.node.0 == 0 {
            return Err(invalid("node"));
        }
        let there = self.nodes.get(&c.node).copied();
        match there {
            Some(Some(disk)) if disk == c.disk => {}
            Some(disk) => {
                return Err(Rejection::NodeIdUsed {
                    node: c.node,
                    retired: disk.is_none(),
                });
            }
            None => drop(self.nodes.insert(c.node, Some(c.disk))),
        }
        Ok(Outcome::Done)
    }

    pub(super) fn retire_node(&mut self, c: &RetireNode) -> Answer {
        if c.node.0 == 0 {
            return Err(invalid("node"));
        }
        self.nodes.insert(c.node, None);
        self.start_grace_of(|owner| owner.node == c.node);
        Ok(Outcome::Done)
    }

    fn start_grace_of(&mut self, gone: impl Fn(Owner) -> bool) {
        let all = self.sessions.iter();
        let lost = all.filter(|(_, session)| gone(session.owner));
        let lost: Vec<SessionId> = lost.map(|(id, _)| *id).collect();
        for session in lost {
            self.start_grace(session);
        }
    }

    /// The connection is gone; a grace that runs already keeps its end.
    fn start_grace(&mut self, session: SessionId) {
        let end = self.lease_now.plus_ms(limits::SESSION_GRACE_MS);
        let lost = self.sessions.get_mut(&session).expect("just seen");
        lost.grace = lost.grace.or(Some(end));
        self.line_up(Some(session));
    }

    pub(super) fn sessions_on(&self, queue: QueueId) -> Vec<SessionId> {
        let all = self.sessions.iter();
        let on = all.filter(|(_, session)| session.queue == queue);
        on.map(|(id, _)| *id).collect()
    }

    /// Tells the owner which leases a session loses now.
    pub(super) fn tell_lost(&mut self, session: SessionId) {
        let queue = self.sessions[&session].queue;
        for offset in self.queues[&queue].held_by(session) {
            self.tell_lost_one(session, offset);
        }
    }

    pub(super) fn tell_lost_one(&mut self, session: SessionId, first_offset: Offset) {
        let Session { queue, owner, .. } = self.sessions[&session];
        self.events.push(Event::LeasesLost {
            session,
            owner,
            queue,
            first_offset,
            count: 1,
        });
    }

    /// What it held goes back as if it had never been granted.
    fn give_back(&mut self, session: SessionId) {
        let id = self.sessions[&session].queue;
        let queue = self.queue_mut(id);
        for offset in queue.held_by(session) {
            let message = queue.message_mut(offset);
            message.standing = Standing::Ready;
            message.deliveries -= 1;
            queue.became_ready = true;
        }
    }

    /// The grace is over: what it held goes back as failed, so much at once at most; then it ends.
    /// How much went back.
    pub(super) fn end_grace(&mut self, session: SessionId, most: usize) -> usize {
        let queue = self.sessions[&session].queue;
        let held = self.queues[&queue].held_by(session);
        let back = &held[..held.len().min(most)];
        for offset in back {
            self.tell_lost_one(session, *offset);
            self.queue_mut(queue).tally.leases_expired += 1;
            self.fail(queue, *offset, None, None);
        }
        if held.len() <= most {
            self.forget_session(session, SessionEnd::GraceOver);
        } else {
            self.reached("a session held more than one entry may expire");
        }
        back.len()
    }

    pub(super) fn forget_session(&mut self, session: SessionId, why: SessionEnd) {
        let gone = self.sessions.remove(&session).expect("just seen");
        let line = &mut self.queue_mut(gone.queue).line;
        line.retain(|other| *other != session);
        self.events.push(Event::SessionEnded {
            session,
            owner: gone.owner,
            why,
        });
    }
}
