//! Everything that the core shows, held against the model.

use ticketrail_core::row::Counters;
use ticketrail_core::state::State;
use ticketrail_core::view::{MessageState, Peeked, SessionView};
use ticketrail_core::{LeaseTime, Offset};

use super::super::normal;
use super::super::state::{Message, Queue, Standing};
use super::{Difference, Pair, equal, equal_in};

impl Pair {
    /// What is cheap, after every entry.
    pub(super) fn compare_often(&mut self) -> Result<(), Difference> {
        let (model, core) = (&self.model, &self.core);
        equal("lease time", &model.lease_now, &core.lease_now())?;
        equal("wall time", &model.wall_now, &core.wall_now())?;
        equal("deadline", &model.next_deadline(), &core.next_deadline())?;
        equal("unroutable", &model.unroutable, &core.unroutable())?;
        let nodes = core
            .nodes()
            .map(|(id, node)| (id, (!node.retired).then_some(node.disk)));
        equal("nodes", &model.nodes, &nodes.collect())?;
        equal("producers", &model.producers.len(), &core.producers())?;
        for queue in model.queues.values() {
            if !queue.conserves() {
                return Err(format!("the model lost count: {:?}", queue.tally));
            }
            self.compare_queue(queue)?;
        }
        self.compare_sessions()
    }

    fn compare_queue(&self, queue: &Queue) -> Result<(), Difference> {
        let Some(view) = self.core.queue_by_id(queue.id) else {
            return Err(format!("the core has no queue {}", queue.id));
        };
        let c = view.counters;
        let arrived = c.published + c.dead_lettered_in;
        let there = view.ready + view.delayed + view.in_flight + view.parked;
        let left = c.acknowledged + c.dead_lettered_out + c.expired + c.dropped + c.purged;
        equal("conservation in the core", &arrived, &(left + there))?;
        let counters = Counters {
            published_bytes: c.published_bytes,
            ..queue.tally
        };
        let of = |what: &str| format!("{what} of queue `{}` ({})", queue.name, queue.id);
        equal_in(|| of("counters"), &counters, c)?;
        let ready = queue.count(|s| *s == Standing::Ready);
        equal_in(|| of("ready"), &ready, &view.ready)?;
        let delayed = queue.count(|s| matches!(s, Standing::Delayed { .. }));
        equal_in(|| of("delayed"), &delayed, &view.delayed)?;
        let in_flight = queue.count(|s| matches!(s, Standing::Leased { .. }));
        equal_in(|| of("in flight"), &in_flight, &view.in_flight)?;
        let parked = queue.count(|s| matches!(s, Standing::Parked { .. }));
        equal_in(|| of("parked"), &parked, &view.parked)?;
        let consumers = self.model.sessions.values();
        let consumers = consumers.filter(|s| s.queue == queue.id).count() as u64;
        equal_in(|| of("consumers"), &consumers, &view.consumers)?;
        equal_in(
            || of("next offset"),
            &Offset(queue.next_offset),
            &view.next_offset,
        )?;
        if queue.messages.is_empty() {
            equal_in(|| of("bytes of the empty"), &0, &view.bytes)?;
        }
        let oldest = queue.messages.iter().find(|m| m.is_ready());
        let oldest = oldest.map(|m| m.published_at);
        equal_in(|| of("oldest ready"), &oldest, &view.oldest_ready)?;
        equal_in(|| of("settings"), &queue.settings, view.settings)?;
        equal_in(|| of("revision"), &queue.revision, &view.revision)
    }

    fn compare_sessions(&self) -> Result<(), Difference> {
        let model = self.model.sessions.iter().map(|(id, session)| SessionView {
            session: *id,
            queue: session.queue,
            owner: session.owner,
            connected: session.grace.is_none(),
            prefetch: session.prefetch,
            held: self.model.queues[&session.queue].held_by(*id).len() as u64,
        });
        let model: Vec<SessionView> = model.collect();
        let core: Vec<SessionView> = self.core.sessions().collect();
        equal("sessions", &model, &core)
    }

    /// What is slow, now and then.
    pub(super) fn compare_rarely(&mut self) -> Result<(), Difference> {
        self.compare_names()?;
        for queue in self.model.queues.values() {
            let all: Vec<Peeked> = queue.messages.iter().map(peeked).collect();
            let core = self.core.peek(queue.id, None, Offset(0), usize::MAX);
            equal_in(|| format!("messages of `{}`", queue.name), &all, &core)?;
            self.compare_page(queue, &all)?;
            for attempt in queue.attempts.iter().take(50) {
                let recalled = self.model.recalls(attempt, &attempt.id);
                let core = self.core.remembers_attempt(queue.id, &attempt.id);
                equal("memory of an attempt", &recalled, &core)?;
            }
            let view = |core: &State| format!("{:?}", core.queue_by_id(queue.id));
            equal(
                "view after a restore",
                &view(&self.restored),
                &view(&self.core),
            )?;
        }
        self.coverage.add("check", "peeked", 1);
        for session in self.model.sessions.keys() {
            let held = &self.model.queues[&self.model.sessions[session].queue];
            let held = held
                .messages
                .iter()
                .filter(|m| m.holder() == Some(*session));
            let held: Vec<_> = held
                .filter_map(|m| m.grant(self.model.sessions[session].queue))
                .collect();
            let core = self.core.held(*session);
            let core: Vec<_> = core.iter().flat_map(normal::grants).collect();
            equal_in(|| format!("held by {session}"), &held, &core)?;
        }
        self.compare_bodies()?;
        self.coverage.add("check", "bodies", 1);
        Ok(())
    }

    /// One page of one state, as a user would turn it.
    fn compare_page(&self, queue: &Queue, all: &[Peeked]) -> Result<(), Difference> {
        let states = [
            MessageState::Ready,
            MessageState::Delayed,
            MessageState::InFlight,
            MessageState::Parked,
        ];
        for state in states {
            let from = Offset(queue.next_offset / 2);
            let page = all.iter().filter(|m| m.state == state && m.offset >= from);
            let page: Vec<Peeked> = page.take(3).cloned().collect();
            let core = self.core.peek(queue.id, Some(state), from, 3);
            equal_in(|| format!("page of {state:?}"), &page, &core)?;
        }
        Ok(())
    }

    fn compare_names(&self) -> Result<(), Difference> {
        let mut namespaces = self.model.namespaces.clone();
        namespaces.sort();
        let core: Vec<String> = self.core.namespaces().map(str::to_owned).collect();
        equal("namespaces", &namespaces, &core)?;
        for namespace in &namespaces {
            let queues = self.model.queues.values();
            let queues = queues.filter(|q| q.namespace == *namespace);
            let mut model: Vec<_> = queues.map(|q| (q.name.clone(), q.id)).collect();
            model.sort();
            let core = self.core.queues(namespace, None);
            let core: Vec<_> = core.map(|q| (q.name.to_owned(), q.id)).collect();
            equal("queues", &model, &core)?;
            if let Some((first, _)) = model.first() {
                let after = self.core.queues(namespace, Some(first)).count();
                equal("queues after the first", &(model.len() - 1), &after)?;
            }
        }
        Ok(())
    }

    /// A body that a message refers to is live, exactly, to within a bucket.
    fn compare_bodies(&self) -> Result<(), Difference> {
        use ticketrail_core::limits::BODY_BUCKET_INDEXES as WIDTH;
        let queues = self.model.queues.values();
        let messages = queues.flat_map(|queue| queue.messages.iter());
        let live: std::collections::BTreeSet<u64> =
            messages.map(|m| m.body.position.index / WIDTH).collect();
        let last = self.core.applied_index() / WIDTH;
        for bucket in last.saturating_sub(40)..=last + 1 {
            let (first, end) = (bucket * WIDTH, bucket * WIDTH + WIDTH - 1);
            let core = self.core.body_is_live(first, end);
            let what = || format!("liveness of bodies in {first}..={end}");
            equal_in(what, &live.contains(&bucket), &core)?;
        }
        let any = self.core.body_is_live(0, u64::MAX);
        equal("liveness of any body", &!live.is_empty(), &any)?;
        self.compare_survey()
    }

    /// A survey tells exactly the bodies that messages refer to.
    fn compare_survey(&self) -> Result<(), Difference> {
        let queues = self.model.queues.values();
        let messages = queues.flat_map(|queue| queue.messages.iter());
        let mut model: Vec<_> = messages.map(|message| message.body).collect();
        model.sort_unstable();
        let mut core = Vec::new();
        let mut tell = |run: ticketrail_core::LiveRun| {
            core.extend((0..run.count).map(|k| ticketrail_core::BodyRef {
                item: run.body.item + k,
                ..run.body
            }));
        };
        let mut at = Some(ticketrail_core::SurveyCursor::default());
        while let Some(from) = at {
            at = self.core.survey(from, 7, &mut tell);
        }
        core.sort_unstable();
        equal("bodies that a survey tells", &model, &core)
    }
}

fn peeked(message: &Message) -> Peeked {
    let (state, due): (MessageState, Option<LeaseTime>) = match message.standing {
        Standing::Ready => (MessageState::Ready, None),
        Standing::Delayed { due } => (MessageState::Delayed, Some(due)),
        Standing::Leased { deadline, .. } => (MessageState::InFlight, Some(deadline)),
        Standing::Parked { .. } => (MessageState::Parked, None),
    };
    Peeked {
        offset: message.offset,
        message_id: message.id,
        body: message.body,
        state,
        delivery_count: message.deliveries,
        deaths: message.deaths.clone(),
        published_at: message.published_at,
        due,
    }
}
