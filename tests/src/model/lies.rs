//! The comparison is tested first: small lies told to the model, each of which must be found.

use ticketrail_core::{Fence, LeaseTime, WallTime};

use super::state::{Message, Model, Standing};

/// Changes the model where that can be told from the core; false where there is nothing to change.
pub type Lie = fn(&mut Model) -> bool;

/// All lies, by name.
pub const LIES: [(&str, Lie); 14] = [
    ("an ack is counted twice", |m| {
        let queue = m.queues.values_mut().next();
        queue.map(|q| q.tally.acknowledged += 1).is_some()
    }),
    ("a message is gone", |m| {
        let mut queues = m.queues.values_mut();
        let queue = queues.find(|q| !q.messages.is_empty());
        queue.map(|q| q.messages.pop()).is_some()
    }),
    ("a ready message is in flight", |m| {
        let (fence, deadline) = (Fence(u64::MAX), m.lease_now.plus_ms(1 << 40));
        let holder = None;
        change(m, Message::is_ready, |message| {
            message.standing = Standing::Leased {
                fence,
                deadline,
                holder,
            };
        })
    }),
    ("a lease has another fence", |m| {
        change_lease(m, |fence, _| *fence = Fence(fence.0 + 1))
    }),
    ("a lease ends earlier", |m| {
        change_lease(m, |_, deadline| *deadline = LeaseTime(deadline.0 - 1))
    }),
    ("a delivery is not counted", |m| {
        change(
            m,
            |message| message.deliveries > 1,
            |message| message.deliveries -= 1,
        )
    }),
    ("a death is forgotten", |m| {
        change(
            m,
            |message| !message.deaths.is_empty(),
            |message| {
                message.deaths.pop();
            },
        )
    }),
    ("a message was published earlier", |m| {
        change(
            m,
            |message| message.published_at.0 > 0,
            |message| {
                message.published_at = WallTime(0);
            },
        )
    }),
    ("nobody remembers what was settled", |m| {
        let mut queues = m.queues.values_mut();
        let queue = queues.find(|q| q.settled.len() > 3);
        queue.map(|q| q.settled.clear()).is_some()
    }),
    ("a producer forgot what it stored", |m| {
        let mut producers = m.producers.values_mut();
        let producer = producers.find(|p| p.window.len() > 3);
        producer.map(|p| p.window.clear()).is_some()
    }),
    ("the line of consumers is turned round", |m| {
        let mut queues = m.queues.values_mut();
        let queue = queues.find(|q| q.line.len() > 1);
        queue.map(|q| q.line.reverse()).is_some()
    }),
    ("a session takes more", |m| {
        let session = m.sessions.values_mut().next();
        session.map(|s| s.prefetch += 1).is_some()
    }),
    ("a session never ends", |m| {
        let mut sessions = m.sessions.values_mut();
        let session = sessions.find(|s| s.grace.is_some());
        session
            .map(|s| s.grace = Some(LeaseTime(u64::MAX)))
            .is_some()
    }),
    ("an id is skipped", |m| {
        m.last_message += 1;
        true
    }),
];

fn change(
    model: &mut Model,
    wanted: impl Fn(&Message) -> bool,
    change: impl FnOnce(&mut Message),
) -> bool {
    let messages = model.queues.values_mut();
    let mut messages = messages.flat_map(|queue| queue.messages.iter_mut());
    let found = messages.find(|message| wanted(message));
    found.map(change).is_some()
}

fn change_lease(model: &mut Model, how: impl FnOnce(&mut Fence, &mut LeaseTime)) -> bool {
    let leased = |message: &Message| matches!(message.standing, Standing::Leased { .. });
    change(model, leased, |message| {
        if let Standing::Leased {
            fence, deadline, ..
        } = &mut message.standing
        {
            how(fence, deadline);
        }
    })
}
