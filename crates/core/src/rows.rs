//! The state as rows, and the changes of rows.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::queue::Queue;
use crate::row::{MetaRow, Row, RowKey};
use crate::runs;
use crate::state::State;

impl State {
    /// All rows, in the order of their keys.
    #[must_use]
    pub fn rows(&self) -> Vec<(RowKey, Row)> {
        let mut rows = Vec::new();
        rows.push((RowKey::Meta, self.meta_row()));
        for name in self.namespaces.keys() {
            rows.push((RowKey::Namespace(name.clone()), Row::Namespace));
        }
        for (id, producer) in self.producers.iter() {
            rows.push((RowKey::Producer(*id), Row::Producer(producer.row.clone())));
            for (chunk, stored) in producer.chunks.iter() {
                let row = Row::ProducerChunk(stored.clone());
                rows.push((RowKey::ProducerChunk(*id, *chunk), row));
            }
        }
        for (id, session) in self.shared.sessions.iter() {
            rows.push((RowKey::Session(*id), Row::Session(session.row)));
        }
        for queue in self.queues.values() {
            queue.rows(&mut rows);
        }
        for (id, node) in self.nodes.iter() {
            rows.push((RowKey::Node(*id), Row::Node(*node)));
        }
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    }

    /// How many queues have rows in the next [`State::drain_changes`].
    #[must_use]
    pub fn changed_queues(&self) -> usize {
        self.shared.dirty.len()
    }

    /// Tells the rows that are different from those at the last call (`None` = gone), each once, in any
    /// order. What came and went in between does not appear.
    pub fn drain_changes(&mut self, mut tell: impl FnMut(RowKey, Option<Row>)) {
        // What is gone may have come again.
        let mut gone: BTreeSet<RowKey> =
            core::mem::take(&mut self.shared.gone).into_iter().collect();
        let mut tell_new = |key: RowKey, row| {
            if !gone.is_empty() {
                gone.remove(&key);
            }
            tell(key, row);
        };
        if core::mem::take(&mut self.meta_dirty) {
            tell_new(RowKey::Meta, Some(self.meta_row()));
        }
        self.namespaces.drain_dirty(|name, namespace| {
            let row = namespace.map(|_| Row::Namespace);
            tell_new(RowKey::Namespace(name.clone()), row);
        });
        let mut changed = Vec::new();
        self.producers.drain_dirty(|id, producer| {
            changed.push(*id);
            let row = producer.map(|producer| Row::Producer(producer.row.clone()));
            tell_new(RowKey::Producer(*id), row);
        });
        for id in changed {
            if let Some(producer) = self.producers.get_unmarked(&id) {
                producer.chunks.drain_dirty(|chunk, stored| {
                    let row = stored.map(|stored| Row::ProducerChunk(stored.clone()));
                    tell_new(RowKey::ProducerChunk(id, *chunk), row);
                });
            }
        }
        self.shared.sessions.drain_dirty(|id, session| {
            let row = session.map(|session| Row::Session(session.row));
            tell_new(RowKey::Session(*id), row);
        });
        self.nodes.drain_dirty(|id, node| {
            tell_new(RowKey::Node(*id), node.map(|node| Row::Node(*node)));
        });
        for id in core::mem::take(&mut self.shared.dirty) {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.drain_changes(&mut tell_new);
            }
        }
        gone.into_iter().for_each(|key| tell(key, None));
    }

    fn meta_row(&self) -> Row {
        Row::Meta(MetaRow {
            applied_index: self.applied_index,
            lease_now: self.shared.lease_now,
            wall_now: self.shared.wall_now,
            digest: self.digest,
            version: self.version,
            bootstrap: self.bootstrap,
            next_queue: self.next_queue,
            next_message_id: self.next_message_id,
            unroutable: self.unroutable,
        })
    }
}

impl Queue {
    fn rows(&self, rows: &mut Vec<(RowKey, Row)>) {
        let id = self.id;
        rows.push((RowKey::Queue(id), Row::Queue(Box::new(self.row()))));
        for (at, chunk) in self.runs.chunks.iter() {
            let row = Row::Runs(runs::stored(*at, chunk));
            rows.push((RowKey::Runs(id, *at), row));
        }
        for (at, lease) in self.leases.iter() {
            rows.push((RowKey::Lease(id, *at), Row::Lease(*lease)));
        }
        for (at, parked) in self.parked.iter() {
            rows.push((RowKey::Parked(id, *at), Row::Parked(*parked)));
        }
        for (at, deaths) in self.deaths.iter() {
            rows.push((RowKey::Deaths(id, *at), Row::Deaths(deaths.clone())));
        }
        let mut spans = |key: RowKey, row| rows.push((key, Row::Spans(row)));
        for (at, row) in self.ready.blocks.rows() {
            spans(RowKey::ReadySpans(id, at), row);
        }
        for (at, row) in self.returned.blocks.rows() {
            spans(RowKey::ReturnedSpans(id, at), row);
        }
        for (at, row) in self.delayed.blocks.rows() {
            spans(RowKey::DelayedSpans(id, at), row);
        }
        for (bucket, settled) in &self.settled {
            for (at, row) in settled.blocks.rows() {
                spans(RowKey::SettledSpans(id, *bucket, at), row);
            }
        }
        for (number, attempt) in self.attempts.iter() {
            rows.push((RowKey::Attempt(id, *number), Row::Attempt(attempt.clone())));
        }
    }

    fn drain_changes(&mut self, tell: &mut dyn FnMut(RowKey, Option<Row>)) {
        let id = self.id;
        self.stored = true;
        tell(RowKey::Queue(id), Some(Row::Queue(Box::new(self.row()))));
        self.runs.chunks.drain_dirty(|at, chunk| {
            let row = chunk.map(|chunk| Row::Runs(runs::stored(*at, chunk)));
            tell(RowKey::Runs(id, *at), row);
        });
        self.leases.drain_dirty(|at, lease| {
            tell(
                RowKey::Lease(id, *at),
                lease.map(|lease| Row::Lease(*lease)),
            );
        });
        self.parked.drain_dirty(|at, row| {
            tell(RowKey::Parked(id, *at), row.map(|row| Row::Parked(*row)));
        });
        self.deaths.drain_dirty(|at, deaths| {
            let row = deaths.map(|deaths| Row::Deaths(deaths.clone()));
            tell(RowKey::Deaths(id, *at), row);
        });
        let mut spans = |key: RowKey, row: Option<_>| {
            tell(key, row.map(Row::Spans));
        };
        let ready = &mut self.ready.blocks;
        ready.drain_dirty(|at, row| spans(RowKey::ReadySpans(id, at), row));
        let returned = &mut self.returned.blocks;
        returned.drain_dirty(|at, row| spans(RowKey::ReturnedSpans(id, at), row));
        let delayed = &mut self.delayed.blocks;
        delayed.drain_dirty(|at, row| spans(RowKey::DelayedSpans(id, at), row));
        self.settled.retain(|bucket, settled| {
            let blocks = &mut settled.blocks;
            blocks.drain_dirty(|at, row| spans(RowKey::SettledSpans(id, *bucket, at), row));
            settled.len() > 0
        });
        self.attempts.drain_dirty(|number, attempt| {
            let row = attempt.map(|attempt| Row::Attempt(attempt.clone()));
            tell(RowKey::Attempt(id, *number), row);
        });
    }
}
