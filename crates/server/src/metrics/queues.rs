//! The queues' numbers: gathered a few queues at a time, so that the state is never held for long, and
//! shown for a bounded number of queues, the oldest; all others are summed up.

use std::time::{Duration, Instant};

use ticketrail_core::row::Counters;
use ticketrail_core::view::QueueView;
use ticketrail_core::{QueueId, State};
use ticketrail_raft::Replica;

use super::names::{self, Metric};
use crate::limits;

/// One queue's numbers, or those of many added up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) ready: u64,
    pub(super) in_flight: u64,
    pub(super) delayed: u64,
    pub(super) parked: u64,
    bytes: u64,
    consumers: u64,
    paused: u64,
    /// Milliseconds since 1970.
    oldest_ready: Option<u64>,
    counters: Counters,
}

/// A queue that has series of its own.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) numbers: Numbers,
}

/// All queues at about the same time.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// The oldest ones.
    pub(super) shown: Vec<Shown>,
    /// The sum of those that are not shown, if there are any.
    pub(super) others: Option<Numbers>,
    /// The sum of all.
    pub(super) all: Numbers,
    pub(super) count: u64,
    pub(super) unroutable: u64,
    pub(super) producers: usize,
    pub(super) sessions: usize,
    /// The longest that the state was held.
    pub(super) held: Duration,
}

impl Queues {
    /// Gathers, with series for up to `shown_max` queues.
    pub(super) async fn gather(replica: &Replica, shown_max: usize) -> Self {
        let mut queues = Self::default();
        let mut after = None;
        loop {
            let page = replica.with_state(|state| {
                // From here on the state is held: the wait for it is not ours to count.
                let start = Instant::now();
                let page = queues.page(state, after, shown_max);
                queues.held = queues.held.max(start.elapsed());
                page
            });
            let Some(last) = page else { return queues };
            after = Some(last);
            // Apply waits for the lock, and on a small machine for the thread.
            tokio::task::yield_now().await;
        }
    }

    /// The next queues; the last one's id unless these were all.
    fn page(&mut self, state: &State, after: Option<QueueId>, shown_max: usize) -> Option<QueueId> {
        if after.is_none() {
            self.unroutable = state.unroutable();
            self.producers = state.producers();
            self.sessions = state.sessions().count();
        }
        let mut last = None;
        let views = state.queues_in_order(after);
        for view in views.take(limits::QUEUES_PER_HOLD) {
            last = Some(view.id);
            self.add(&view, shown_max);
        }
        last
    }

    fn add(&mut self, view: &QueueView<'_>, shown_max: usize) {
        let numbers = Numbers::of(view);
        self.all.add(&numbers);
        self.count += 1;
        if self.shown.len() < shown_max {
            self.shown.push(Shown {
                namespace: view.namespace.to_owned(),
                name: view.name.to_owned(),
                numbers,
            });
        } else {
            self.others.get_or_insert_default().add(&numbers);
        }
    }
}

impl Numbers {
    fn of(view: &QueueView<'_>) -> Self {
        Self {
            ready: view.ready,
            in_flight: view.in_flight,
            delayed: view.delayed,
            parked: view.parked,
            bytes: view.bytes,
            consumers: view.consumers,
            paused: u64::from(view.settings.paused),
            oldest_ready: view.oldest_ready.map(|published| published.0),
            counters: *view.counters,
        }
    }

    fn add(&mut self, other: &Self) {
        let oldest = [self.oldest_ready, other.oldest_ready];
        self.oldest_ready = oldest.into_iter().flatten().min();
        self.ready += other.ready;
        self.in_flight += other.in_flight;
        self.delayed += other.delayed;
        self.parked += other.parked;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.consumers += other.consumers;
        self.paused += other.paused;
        for (sum, more) in each(&mut self.counters)
            .into_iter()
            .zip(each(&mut { other.counters }))
        {
            *sum = sum.saturating_add(*more);
        }
    }
}

fn each(counters: &mut Counters) -> [&mut u64; 11] {
    // Destructured, so that a counter that is added cannot be forgotten here.
    let Counters {
        published,
        published_bytes,
        dead_lettered_in,
        granted,
        redelivered,
        leases_expired,
        acknowledged,
        dead_lettered_out,
        expired,
        dropped,
        purged,
    } = counters;
    [
        published,
        published_bytes,
        dead_lettered_in,
        granted,
        redelivered,
        leases_expired,
        acknowledged,
        dead_lettered_out,
        expired,
        dropped,
        purged,
    ]
}

/// The counters of a sum of queues that come and go. A sum that fell would look like a restart and be
/// counted once more as a whole; so only what is added from look to look counts.
#[derive(Debug, Default)]
pub(super) struct Growing {
    last: Counters,
    total: Counters,
}

impl Growing {
    /// Puts growing counters in the place of those of the sum.
    pub(super) fn grow(&mut self, sum: &mut Numbers) {
        let now = sum.counters;
        let last = &mut { self.last };
        let steps = each(&mut { now }).map(|now| *now);
        let totals = each(&mut self.total).into_iter().zip(each(last));
        for ((total, last), now) in totals.zip(steps) {
            *total = total.saturating_add(now.saturating_sub(*last));
        }
        self.last = now;
        sum.counters = self.total;
    }
}

/// Reads one value of a queue, at a time of day in milliseconds.
type Value = fn(&Numbers, u64) -> f64;

/// The metrics that each queue has.
pub(super) const OF_EACH: &[(&Metric, Value)] = &[
    (&names::QUEUE_READY, |n, _| n.ready as f64),
    (&names::QUEUE_IN_FLIGHT, |n, _| n.in_flight as f64),
    (&names::QUEUE_DELAYED, |n, _| n.delayed as f64),
    (&names::QUEUE_PARKED, |n, _| n.parked as f64),
    (&names::QUEUE_BYTES, |n, _| n.bytes as f64),
    (&names::QUEUE_OLDEST_READY_AGE, |n, now_ms| {
        let age = n.oldest_ready.map(|at| now_ms.saturating_sub(at));
        age.unwrap_or_default() as f64 / 1e3
    }),
    (&names::QUEUE_CONSUMERS, |n, _| n.consumers as f64),
    (&names::QUEUE_PAUSED, |n, _| n.paused as f64),
    (&names::QUEUE_PUBLISHED, |n, _| n.counters.published as f64),
    (&names::QUEUE_PUBLISHED_BYTES, |n, _| {
        n.counters.published_bytes as f64
    }),
    (&names::QUEUE_DELIVERED, |n, _| n.counters.granted as f64),
    (&names::QUEUE_REDELIVERED, |n, _| {
        n.counters.redelivered as f64
    }),
    (&names::QUEUE_ACKNOWLEDGED, |n, _| {
        n.counters.acknowledged as f64
    }),
    (&names::QUEUE_LEASES_EXPIRED, |n, _| {
        n.counters.leases_expired as f64
    }),
    (&names::QUEUE_DEAD_LETTERED_IN, |n, _| {
        n.counters.dead_lettered_in as f64
    }),
    (&names::QUEUE_DEAD_LETTERED_OUT, |n, _| {
        n.counters.dead_lettered_out as f64
    }),
    (&names::QUEUE_EXPIRED, |n, _| n.counters.expired as f64),
    (&names::QUEUE_DROPPED, |n, _| n.counters.dropped as f64),
    (&names::QUEUE_PURGED, |n, _| n.counters.purged as f64),
];

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_core::command::{Bootstrap, CreateQueue, Publish, PublishRun};
    use ticketrail_core::{Command, Entry, QueueSettings, Stamps};

    fn published(count: u64) -> Numbers {
        let mut numbers = Numbers::default();
        numbers.counters.published = count;
        numbers
    }

    #[test]
    fn the_counters_of_a_sum_never_fall() {
        let mut growing = Growing::default();
        let mut shown = Vec::new();
        for sum in [10, 15, 4, 6] {
            let mut numbers = published(sum);
            growing.grow(&mut numbers);
            shown.push(numbers.counters.published);
        }
        assert_eq!(shown, [10, 15, 15, 17]);
    }

    #[test]
    fn a_sum_has_the_oldest_age_of_all() {
        let with = |oldest_ready| Numbers {
            oldest_ready,
            ready: 1,
            ..Numbers::default()
        };
        let mut sum = Numbers::default();
        for oldest in [Some(5), None, Some(3)] {
            sum.add(&with(oldest));
        }
        assert_eq!((sum.oldest_ready, sum.ready), (Some(3), 3));
    }

    fn state_of(queues: usize) -> State {
        let mut state = State::new();
        let mut index = 0;
        let mut apply = |commands| {
            index += 1;
            let stamps = Stamps::default();
            state.apply(index, &Entry { stamps, commands }).unwrap();
        };
        apply(vec![Command::Bootstrap(Bootstrap {
            cluster_id: 1,
            hash_seed: 1,
        })]);
        for k in 0..queues {
            let queue = format!("queue {k}");
            let runs = vec![PublishRun {
                routing_key: queue.clone(),
                count: 10,
                bytes: 100,
                mandatory: true,
            }];
            let namespace = "default".to_owned();
            apply(vec![
                Command::CreateQueue(CreateQueue {
                    namespace: namespace.clone(),
                    queue,
                    settings: QueueSettings::default(),
                }),
                Command::Publish(Publish {
                    namespace,
                    producer: None,
                    atomic: false,
                    runs,
                }),
            ]);
        }
        state
    }

    /// `TICKETRAIL_SCRAPE_QUEUES=100000` and `--release --nocapture` for the figures of the docs.
    #[test]
    fn all_queues_are_counted_once_and_the_oldest_shown() {
        let count = std::env::var("TICKETRAIL_SCRAPE_QUEUES");
        let count = count.map_or(1_700, |text| text.parse().unwrap());
        let state = state_of(count);
        let start = Instant::now();
        let (mut queues, mut after, mut held) = (Queues::default(), None, Duration::ZERO);
        loop {
            let hold = Instant::now();
            let last = queues.page(&state, after, 1_000);
            held = held.max(hold.elapsed());
            let Some(last) = last else { break };
            after = Some(last);
        }
        let all = start.elapsed();
        println!("{count} queues gathered in {all:?}, the state held for {held:?} at most");
        assert_eq!(
            (queues.count, queues.all.ready),
            (count as u64, count as u64 * 10)
        );
        let names: Vec<_> = queues
            .shown
            .iter()
            .map(|shown| shown.name.clone())
            .collect();
        let oldest: Vec<_> = (0..1_000).map(|k| format!("queue {k}")).collect();
        assert_eq!(names, oldest);
        let others = queues.others.unwrap();
        assert_eq!(others.counters.published, (count as u64 - 1_000) * 10);
    }
}
