//! The committed log, replayed through the naive model: the same answers and events. So in committed
//! order a message has one holder, a stale token changes nothing, a retry is stored once, counts of
//! deliveries are exact and a dead letter is in one place.

use std::collections::BTreeMap;

use ticketrail_core::{Entry, Event, Outcome};

use super::Violation;
use crate::model::{Model, normal};

/// The model, as far as the log was seen.
#[derive(Default)]
pub struct Replay {
    model: Model,
    places: BTreeMap<&'static str, u64>,
}

impl Replay {
    /// Nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self {
            model: Model::new(),
            places: BTreeMap::new(),
        }
    }

    /// The next entry, and what a node made of it.
    ///
    /// # Errors
    /// The model makes something else of it.
    pub fn next(
        &mut self,
        index: u64,
        entry: &Entry,
        outcomes: &[Outcome],
        events: &[Event],
    ) -> Result<(), Violation> {
        let (model_outcomes, model_events) = self.model.apply(index, entry);
        for (place, times) in self.model.take_places() {
            *self.places.entry(place).or_default() += times;
        }
        let one_form = |outcomes: &[Outcome]| -> Vec<Outcome> {
            outcomes.iter().map(normal::outcome).collect()
        };
        let (model, core) = (one_form(&model_outcomes), one_form(outcomes));
        for (place, (model, core)) in model.iter().zip(&core).enumerate() {
            if model != core {
                let command = &entry.commands[place];
                return Err(format!(
                    "entry {index}, command {place} {command:?} is answered {core:?}, where the model says {model:?}"
                ));
            }
        }
        let (model, core) = (normal::events(&model_events), normal::events(events));
        if model != core {
            return Err(format!(
                "the events of entry {index} are {core:?}, where the model has {model:?}"
            ));
        }
        Ok(())
    }

    /// How often each noteworthy place was reached.
    #[must_use]
    pub fn reached(&self, place: &str) -> u64 {
        self.places.get(place).copied().unwrap_or_default()
    }
}
