//! Settlements of a consume stream: from ranges of delivery ids to ranges of leases, and back.

use ticketrail_broker::Settled;
use ticketrail_core::command::{SettleKind, SettleRange};
use ticketrail_core::outcome::SettleException;
use ticketrail_core::{QueueId, limits as core};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::v1;

use crate::convert::{self, Checked, Held, Run};
use crate::limits;
use crate::listen::MessageShare;
use crate::spans::Settling;

/// What a stream has sent, and how far its settlements are.
pub(super) struct Settlements {
    queue: QueueId,
    /// The deliveries.
    pub(super) held: Held,
    /// Settlement frames that came.
    came: u64,
    /// Settlement frames that are answered.
    through: u64,
}

/// Settlement frames that are handed to the broker together.
#[derive(Default)]
pub(super) struct Gathered {
    frames: usize,
    ranges: Vec<SettleRange>,
    /// Messages in the ranges.
    messages: u64,
    batch: Batch,
    /// What the frames take of the budgets.
    pub(super) shares: Vec<MessageShare>,
    /// What is told of them to a collector.
    pub(super) settling: Settling,
}

/// What is needed to answer the settlements of one command.
#[derive(Default)]
pub(super) struct Batch {
    /// The last settlement that is through with this command; 0 where a later one must follow.
    through: u64,
    /// Settled deliveries that are not remembered any more.
    forgotten: Vec<v1::SettleException>,
    /// For each range of the command: what it stands for.
    parts: Vec<Part>,
}

/// What a range of a command stands for.
#[derive(Clone, Copy)]
struct Part {
    settlement: u64,
    first_id: u64,
    first_offset: u64,
}

impl Settlements {
    /// Of a stream on this queue.
    pub(super) fn new(queue: QueueId) -> Self {
        Self {
            queue,
            held: Held::default(),
            came: 0,
            through: 0,
        }
    }

    /// Adds a settlement frame.
    pub(super) fn gather(
        &mut self,
        settlement: &v1::ConsumeSettlement,
        gathered: &mut Gathered,
    ) -> Checked<()> {
        let asked = &settlement.ranges;
        if asked.is_empty() || asked.len() > limits::SETTLE_RANGES_MAX {
            let must = format!(
                "1..{} ranges, it has {}",
                limits::SETTLE_RANGES_MAX,
                asked.len()
            );
            return Err(Problem::invalid_field("settlement.ranges", must));
        }
        self.came += 1;
        gathered.frames += 1;
        gathered.batch.through = self.came;
        let (already, messages_already) = (gathered.ranges.len(), gathered.messages);
        for (place, range) in asked.iter().enumerate() {
            let (kind, runs) = self.range(range, &format!("settlement.ranges[{place}]."))?;
            forgotten(range, &runs, self.came, &mut gathered.batch.forgotten);
            runs.iter().for_each(|run| self.add(run, kind, gathered));
            if gathered.ranges.len() - already > limits::SETTLEMENT_RUNS_MAX
                || gathered.messages - messages_already > limits::SETTLEMENT_MESSAGES_MAX
            {
                let must = "without so many repetitions of the same deliveries";
                return Err(Problem::invalid_field("settlement.ranges", must));
            }
        }
        Ok(())
    }

    fn add(&self, run: &Run, kind: SettleKind, gathered: &mut Gathered) {
        gathered.batch.parts.push(Part {
            settlement: self.came,
            first_id: run.first_id,
            first_offset: run.first_offset.0,
        });
        gathered.messages += run.count;
        gathered.ranges.push(SettleRange {
            queue: self.queue,
            first_offset: run.first_offset,
            count: u32::try_from(run.count).unwrap_or(u32::MAX),
            first_fence: run.first_fence,
            kind,
        });
    }

    fn range(&mut self, range: &v1::SettleRange, prefix: &str) -> Checked<(SettleKind, Vec<Run>)> {
        let lease = range.lease_duration.as_ref();
        let kind = convert::kind(range.kind, range.delay.as_ref(), lease, prefix)?;
        let (first, last) = (range.first_delivery_id, last_of(range));
        let ends = convert::extension(kind).is_none();
        let runs = self.held.leases(first, last, ends);
        let runs =
            runs.ok_or_else(|| unknown_delivery(first, last, self.held.next_id(), prefix))?;
        Ok((kind, runs))
    }

    /// The answer to the settlements of a command.
    pub(super) fn answer(
        &mut self,
        batch: &Batch,
        settled: Option<&Settled>,
    ) -> v1::ConsumeSettled {
        self.through = self.through.max(batch.through);
        let refused = settled.into_iter().flat_map(|settled| &settled.exceptions);
        let refused = refused.filter_map(|exception| batch.refused(exception));
        v1::ConsumeSettled {
            through_settlement: self.through,
            exceptions: refused.chain(batch.forgotten.iter().copied()).collect(),
            position: settled.map(|settled| convert::commit_position(settled.position)),
        }
    }
}

impl Gathered {
    /// No more frames are to be added.
    pub(super) fn is_full(&self) -> bool {
        self.frames >= limits::SETTLEMENTS_TOGETHER_MAX
            || self.ranges.len() >= core::SETTLE_RANGES_MAX
            || self.messages >= limits::SETTLEMENT_MESSAGES_MAX
    }

    /// As commands of the size that one may have; none where no frame was gathered.
    pub(super) fn into_commands(self) -> Vec<(Batch, Vec<SettleRange>)> {
        let Self {
            frames,
            mut ranges,
            mut batch,
            messages: _,
            shares: _,
            settling: _,
        } = self;
        let mut commands = Vec::new();
        while ranges.len() > core::SETTLE_RANGES_MAX {
            let rest = ranges.split_off(core::SETTLE_RANGES_MAX);
            let parts = batch.parts.split_off(core::SETTLE_RANGES_MAX);
            let first = Batch {
                parts: std::mem::replace(&mut batch.parts, parts),
                ..Batch::default()
            };
            commands.push((first, std::mem::replace(&mut ranges, rest)));
        }
        if frames > 0 {
            commands.push((batch, ranges));
        }
        commands
    }
}

impl Batch {
    fn refused(&self, exception: &SettleException) -> Option<v1::SettleException> {
        let part = self.parts.get(exception.range as usize)?;
        let first = part.first_id + (exception.first_offset.0 - part.first_offset);
        Some(v1::SettleException {
            settlement: part.settlement,
            first_delivery_id: first,
            last_delivery_id: first + u64::from(exception.count) - 1,
            outcome: convert::outcome(exception.status) as i32,
        })
    }
}

/// The last delivery of a range that was written with it, or with its first alone.
pub(super) fn last_of(range: &v1::SettleRange) -> u64 {
    match range.last_delivery_id {
        0 => range.first_delivery_id,
        last => last,
    }
}

/// The deliveries of a range that are in none of the runs.
fn forgotten(
    range: &v1::SettleRange,
    runs: &[Run],
    settlement: u64,
    forgotten: &mut Vec<v1::SettleException>,
) {
    let mut next = range.first_delivery_id;
    let ends = runs
        .iter()
        .map(|run| (run.first_id, run.first_id + run.count));
    for (first, end) in ends.chain([(last_of(range) + 1, 0)]) {
        if next < first {
            forgotten.push(v1::SettleException {
                settlement,
                first_delivery_id: next,
                last_delivery_id: first - 1,
                outcome: v1::SettleOutcome::NotFound as i32,
            });
        }
        next = end;
    }
}

fn unknown_delivery(first: u64, last: u64, next: u64, prefix: &str) -> Problem {
    let field = format!("{prefix}first_delivery_id");
    let known = match next {
        1 => "none was sent yet".to_owned(),
        next => format!("1..={} were sent", next - 1),
    };
    let message = format!("`{field}`: deliveries {first}..={last} are not on this stream; {known}");
    Problem::new(Reason::UnknownDelivery, message.clone()).field(field, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_core::{Fence, Offset, Position, SettleStatus};

    fn ack(first: u64, last: u64) -> v1::SettleRange {
        let kind = v1::SettleKind::Ack as i32;
        v1::SettleRange {
            first_delivery_id: first,
            last_delivery_id: last,
            kind,
            ..Default::default()
        }
    }

    fn frame(ranges: &[v1::SettleRange]) -> v1::ConsumeSettlement {
        v1::ConsumeSettlement {
            ranges: ranges.to_vec(),
        }
    }

    /// Ids 1..=count, of which no two are neighbours in their queue.
    fn scattered(count: u64) -> Settlements {
        let mut settlements = Settlements::new(QueueId(9));
        for k in 0..count {
            settlements.held.sent(Offset(2 * k), Fence(k + 1));
        }
        settlements
    }

    fn settled(exceptions: Vec<SettleException>) -> Settled {
        Settled {
            position: Position { index: 5, place: 0 },
            exceptions,
        }
    }

    #[test]
    fn frames_go_together_and_exceptions_come_back_by_id() {
        let mut settlements = Settlements::new(QueueId(9));
        for k in 0..10 {
            settlements.held.sent(Offset(100 + k), Fence(50 + k));
        }
        let mut gathered = Gathered::default();
        settlements
            .gather(&frame(&[ack(1, 4)]), &mut gathered)
            .unwrap();
        settlements
            .gather(&frame(&[ack(7, 0), ack(8, 10)]), &mut gathered)
            .unwrap();
        let mut commands = gathered.into_commands();
        let (batch, ranges) = commands.pop().unwrap();
        assert!(commands.is_empty());
        let found: Vec<_> = ranges
            .iter()
            .map(|r| (r.first_offset.0, r.count, r.first_fence.0))
            .collect();
        assert_eq!(found, [(100, 4, 50), (106, 1, 56), (107, 3, 57)]);
        let lost = SettleException {
            range: 2,
            first_offset: Offset(108),
            count: 2,
            status: SettleStatus::LeaseLost,
        };
        let told = settlements.answer(&batch, Some(&settled(vec![lost])));
        assert_eq!(told.through_settlement, 2);
        let exception = told.exceptions[0];
        assert_eq!(
            (
                exception.settlement,
                exception.first_delivery_id,
                exception.last_delivery_id
            ),
            (2, 9, 10)
        );
        assert_eq!(exception.outcome(), v1::SettleOutcome::LeaseLost);
    }

    #[test]
    fn a_large_frame_is_several_commands_and_through_with_the_last() {
        let count = core::SETTLE_RANGES_MAX as u64 + 5;
        let mut settlements = scattered(count);
        let mut gathered = Gathered::default();
        settlements
            .gather(&frame(&[ack(1, count)]), &mut gathered)
            .unwrap();
        assert!(gathered.is_full());
        let commands = gathered.into_commands();
        assert_eq!(
            commands
                .iter()
                .map(|(_, ranges)| ranges.len())
                .collect::<Vec<_>>(),
            [10_000, 5]
        );
        let through: Vec<_> = commands
            .iter()
            .map(|(batch, _)| {
                settlements
                    .answer(batch, Some(&settled(vec![])))
                    .through_settlement
            })
            .collect();
        assert_eq!(through, [0, 1]);
        let last = SettleException {
            range: 4,
            first_offset: Offset(2 * (count - 1)),
            count: 1,
            status: SettleStatus::NotFound,
        };
        assert_eq!(
            commands[1].0.refused(&last).unwrap().first_delivery_id,
            count
        );
    }

    #[test]
    fn what_is_forgotten_is_told_and_what_was_never_sent_is_refused() {
        let mut settlements = scattered(5_000);
        for id in 1..=5_000 {
            settlements.held.leases(id, id, true);
        }
        let mut gathered = Gathered::default();
        settlements
            .gather(&frame(&[ack(900, 910)]), &mut gathered)
            .unwrap();
        let (batch, ranges) = gathered.into_commands().pop().unwrap();
        assert_eq!(ranges.len(), 6, "905..=910 are remembered");
        let told = settlements.answer(&batch, Some(&settled(vec![])));
        let exception = told.exceptions[0];
        assert_eq!(
            (exception.first_delivery_id, exception.last_delivery_id),
            (900, 904)
        );
        assert_eq!(exception.outcome(), v1::SettleOutcome::NotFound);

        let mut gathered = Gathered::default();
        let problem = settlements
            .gather(&frame(&[ack(5_001, 0)]), &mut gathered)
            .unwrap_err();
        assert_eq!(problem.reason(), Reason::UnknownDelivery);
    }

    #[test]
    fn repetitions_of_a_long_run_are_bounded_too() {
        let mut settlements = Settlements::new(QueueId(9));
        for k in 0..50_000 {
            settlements.held.sent(Offset(k), Fence(k + 1));
        }
        let range = v1::SettleRange {
            kind: v1::SettleKind::Extend as i32,
            lease_duration: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..ack(1, 50_000)
        };
        let mut gathered = Gathered::default();
        let twice = frame(&[range, range]);
        settlements.gather(&twice, &mut gathered).unwrap();
        let problem = settlements
            .gather(&frame(&vec![range; 3]), &mut Gathered::default())
            .unwrap_err();
        assert_eq!(problem.reason(), Reason::InvalidField);
    }

    #[test]
    fn repetitions_are_bounded() {
        let mut settlements = scattered(1_000);
        let range = v1::SettleRange {
            kind: v1::SettleKind::Extend as i32,
            ..ack(1, 1_000)
        };
        let range = v1::SettleRange {
            lease_duration: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..range
        };
        let mut gathered = Gathered::default();
        let problem = settlements
            .gather(&frame(&vec![range; 10_000]), &mut gathered)
            .unwrap_err();
        assert_eq!(problem.reason(), Reason::InvalidField);
        assert!(gathered.ranges.len() <= limits::SETTLEMENT_RUNS_MAX + 1_000);
    }
}
