//! Names from a small pool, a few of them impossible.

use ticketrail_core::limits;

use super::super::state::Model;
use super::Generator;

const QUEUES: [&str; 6] = [
    "orders",
    "dead",
    "tasks",
    "../../etc/passwd",
    "späte",
    "x y#z@1",
];

impl Generator {
    pub(super) fn namespace(&mut self) -> String {
        if self.wrong() {
            return self.bad_name();
        }
        self.dice
            .pick(&["default", "default", "default", "other"])
            .to_string()
    }

    pub(super) fn queue_name(&mut self) -> String {
        if self.wrong() {
            return self.bad_name();
        }
        let names = usize::try_from(self.habits.names).expect("a handful");
        self.dice.pick(&QUEUES[..names]).to_string()
    }

    pub(super) fn producer_name(&mut self) -> String {
        if self.wrong() {
            return self.bad_name();
        }
        self.dice.pick(&["importer", "sync"]).to_string()
    }

    fn bad_name(&mut self) -> String {
        let longest = limits::NAME_BYTES_MAX;
        match self.dice.below(8) {
            0 => String::new(),
            1 => "x".repeat(longest + 1),
            2 => "ü".repeat(longest / 2 + 1),
            3 => "tr.internal".to_owned(),
            4 => "bell\u{7}".to_owned(),
            5 => "c1\u{85}".to_owned(),
            6 => "x".repeat(longest),
            _ => "nobody".to_owned(),
        }
    }

    /// Mostly a queue that is there.
    pub(super) fn some_queue(&mut self, model: &Model) -> (String, String) {
        let there = model.queues.len() as u64;
        if there == 0 || self.dice.one_in(4) {
            return (self.namespace(), self.queue_name());
        }
        let place = usize::try_from(self.dice.below(there)).expect("a place");
        let queue = model.queues.values().nth(place).expect("below its length");
        (queue.namespace.clone(), queue.name.clone())
    }
}
