//! What fell due: one timer after the other, the oldest first.

use ticketrail_core::{LeaseTime, Offset, QueueId, SessionId, limits};

use super::state::{Model, Producer, Standing};

/// One thing that happens by itself. Of several that are due at the same moment, the smaller goes
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The lease of a message ends.
    Lease(QueueId, Offset),
    /// The delay of a message ends.
    Delay(QueueId, Offset),
    /// A session did not come back.
    Grace(SessionId),
}

impl Model {
    pub(super) fn fire_timers(&mut self) {
        let mut fired = 0;
        while let Some(timer) = self.next_due() {
            if fired == limits::EXPIRIES_PER_ENTRY_MAX {
                self.reached("more was due than one entry may fire");
                break;
            }
            let most = limits::EXPIRIES_PER_ENTRY_MAX - fired;
            fired += self.fire(timer, most).max(1);
            self.deal_everywhere();
        }
        while let Some((queue, offset)) = self.next_parked() {
            if fired == limits::EXPIRIES_PER_ENTRY_MAX {
                self.reached("more was parked than one entry may move");
                break;
            }
            self.unpark(queue, offset);
            self.deal_everywhere();
            fired += 1;
        }
        self.forget_idle_producers();
    }

    fn next_due(&self) -> Option<Timer> {
        let now = self.lease_now;
        let all = self.timers().filter(|(due, _)| *due <= now);
        all.min().map(|(_, timer)| timer)
    }

    /// When the next timer is due; now, if that has passed or parked messages can move.
    pub fn next_deadline(&self) -> Option<LeaseTime> {
        let next = match self.next_parked() {
            Some(_) => Some(self.lease_now),
            None => self.timers().map(|(due, _)| due).min(),
        };
        next.map(|due| due.max(self.lease_now))
    }

    fn timers(&self) -> impl Iterator<Item = (LeaseTime, Timer)> {
        let messages = self.queues.values().flat_map(|queue| {
            queue.messages.iter().filter_map(|m| match m.standing {
                Standing::Leased { deadline, .. } => {
                    Some((deadline, Timer::Lease(queue.id, m.offset)))
                }
                Standing::Delayed { due } => Some((due, Timer::Delay(queue.id, m.offset))),
                Standing::Ready | Standing::Parked { .. } => None,
            })
        });
        let graces = self.sessions.iter();
        let graces = graces.filter_map(|(id, s)| Some((s.grace?, Timer::Grace(*id))));
        messages.chain(graces)
    }

    /// Fires a timer; how many messages that was.
    fn fire(&mut self, timer: Timer, most: usize) -> usize {
        match timer {
            Timer::Lease(queue, offset) => {
                self.reached("lease expired");
                let message = self.queues[&queue].message(offset).expect("just listed");
                let holder = message.holder();
                if let Some(session) = holder {
                    self.tell_lost_one(session, offset);
                }
                self.queue_mut(queue).tally.leases_expired += 1;
                self.fail(queue, offset, None, None);
                self.line_up(holder);
            }
            Timer::Delay(queue, offset) => {
                self.reached("delay ended");
                let queue = self.queue_mut(queue);
                queue.message_mut(offset).standing = Standing::Ready;
                queue.became_ready = true;
            }
            Timer::Grace(session) => return self.end_grace(session, most),
        }
        1
    }

    fn forget_idle_producers(&mut self) {
        let now = self.wall_now.0;
        let before = self.producers.len();
        self.producers
            .retain(|_, producer| now < idle_after(producer));
        if self.producers.len() < before {
            self.reached("idle producer forgotten");
        }
    }
}

/// Last use is kept to the hour; idleness is counted from that hour's end.
fn idle_after(producer: &Producer) -> u64 {
    let step = limits::PRODUCER_USE_STEP_MS;
    let hour_ends = (producer.used_at.0 / step).saturating_add(1);
    let hour_ends = hour_ends.saturating_mul(step);
    hour_ends.saturating_add(limits::PRODUCER_IDLE_MS)
}
