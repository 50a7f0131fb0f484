//! Two queues as one: what makes a node shrink goes before what makes it grow.

use ticketrail_core::Command;
use tokio::sync::mpsc;

/// So many of the reserved lane go before one of the other, when both wait.
const RESERVED_IN_A_ROW: u32 = 8;

/// Which way a command goes to the log. Commands of one lane keep their order; between the two
/// there is none, as between any calls that were not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Settles, extends, credit, receives, sessions, topology.
    Reserved,
    /// Messages to be stored.
    Publish,
}

impl Lane {
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Publish(_) => Self::Publish,
            _ => Self::Reserved,
        }
    }
}

/// The sending ends.
#[derive(Debug)]
pub(crate) struct LaneSenders<T> {
    reserved: mpsc::Sender<T>,
    publish: mpsc::Sender<T>,
}

impl<T> LaneSenders<T> {
    pub(crate) fn of(&self, lane: Lane) -> &mpsc::Sender<T> {
        match lane {
            Lane::Reserved => &self.reserved,
            Lane::Publish => &self.publish,
        }
    }
}

impl<T> Clone for LaneSenders<T> {
    fn clone(&self) -> Self {
        Self {
            reserved: self.reserved.clone(),
            publish: self.publish.clone(),
        }
    }
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    reserved: mpsc::Receiver<T>,
    publish: mpsc::Receiver<T>,
    reserved_in_a_row: u32,
}

/// Two lanes of so many places each.
pub(crate) fn lanes<T>(places: usize) -> (LaneSenders<T>, Lanes<T>) {
    let (reserved, reserved_end) = mpsc::channel(places);
    let (publish, publish_end) = mpsc::channel(places);
    (
        LaneSenders { reserved, publish },
        Lanes {
            reserved: reserved_end,
            publish: publish_end,
            reserved_in_a_row: 0,
        },
    )
}

impl<T> Lanes<T> {
    /// The two, the reserved one first.
    pub(crate) fn apart(self) -> (mpsc::Receiver<T>, mpsc::Receiver<T>) {
        (self.reserved, self.publish)
    }

    /// The next; `None`: all senders are gone. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        if let Some(next) = self.try_recv() {
            return Some(next);
        }
        let next = tokio::select! {
            biased;
            Some(next) = self.reserved.recv() => next,
            Some(next) = self.publish.recv() => next,
            else => return None,
        };
        self.reserved_in_a_row = 0;
        Some(next)
    }

    /// One that is there already.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        if self.reserved_in_a_row < RESERVED_IN_A_ROW
            && let Ok(next) = self.reserved.try_recv()
        {
            self.reserved_in_a_row += 1;
            return Some(next);
        }
        self.reserved_in_a_row = 0;
        let next = self.publish.try_recv().ok();
        next.or_else(|| self.reserved.try_recv().ok())
    }

    fn is_empty(&self) -> bool {
        self.reserved.is_empty() && self.publish.is_empty()
    }
}

/// What this node's own route hands over, and what other nodes forward: each in lanes of its own, taken
/// in turn, so that the leader's own clients do not crowd out those of the others.
#[derive(Debug)]
pub(crate) struct Intake<T> {
    own: Lanes<T>,
    forwarded: Lanes<T>,
    forwarded_next: bool,
}

impl<T> Intake<T> {
    pub(crate) fn new(own: Lanes<T>, forwarded: Lanes<T>) -> Self {
        Self {
            own,
            forwarded,
            forwarded_next: false,
        }
    }

    /// The next; `None`: all senders are gone. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        if let Some(next) = self.try_recv() {
            return Some(next);
        }
        tokio::select! {
            biased;
            Some(next) = self.own.recv() => Some(next),
            Some(next) = self.forwarded.recv() => Some(next),
            else => None,
        }
    }

    /// One that is there already.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        self.forwarded_next = !self.forwarded_next;
        let (first, second) = match self.forwarded_next {
            true => (&mut self.own, &mut self.forwarded),
            false => (&mut self.forwarded, &mut self.own),
        };
        first.try_recv().or_else(|| second.try_recv())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.forwarded.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_forwarded_has_its_turn_however_much_there_is_of_our_own() {
        let ((own, own_end), (forwarded, forwarded_end)) = (lanes(64), lanes(64));
        let mut intake = Intake::new(own_end, forwarded_end);
        (0..40).for_each(|_| own.of(Lane::Publish).try_send("own").unwrap());
        (0..4).for_each(|_| forwarded.of(Lane::Publish).try_send("forwarded").unwrap());
        let mut taken = Vec::new();
        for _ in 0..10 {
            taken.push(intake.recv().await.unwrap());
        }
        assert_eq!(taken.iter().filter(|from| **from == "forwarded").count(), 4);
        drop((own, forwarded));
        for _ in 0..34 {
            assert_eq!(intake.recv().await, Some("own"));
        }
        assert_eq!(intake.recv().await, None);
    }

    #[tokio::test]
    async fn the_reserved_lane_goes_first_and_the_other_is_never_left_behind() {
        let (senders, mut lanes) = lanes(64);
        for place in 0..20 {
            senders
                .of(Lane::Publish)
                .try_send((Lane::Publish, place))
                .unwrap();
            senders
                .of(Lane::Reserved)
                .try_send((Lane::Reserved, place))
                .unwrap();
        }
        let mut taken = Vec::new();
        for _ in 0..40 {
            taken.push(lanes.recv().await.unwrap());
        }
        assert!(taken[..8].iter().all(|(lane, _)| *lane == Lane::Reserved));
        assert_eq!(taken[8], (Lane::Publish, 0));
        for lane in [Lane::Reserved, Lane::Publish] {
            let of_lane = taken.iter().filter(|(other, _)| *other == lane);
            let places: Vec<_> = of_lane.map(|(_, place)| *place).collect();
            assert_eq!(places, (0..20).collect::<Vec<_>>());
        }
        drop(senders);
        assert_eq!(lanes.recv().await, None);
    }
}
