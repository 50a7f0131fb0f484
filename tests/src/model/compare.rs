//! The core and the model side by side.
//!
//! [`Pair::step`] gives one entry to the model, to the core, and to a second core that was
//! restored from rows a while ago, and wants them to agree on everything that can be asked.
//! [`shrink`] makes a failing script short.

mod views;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ticketrail_core::command::Entry;
use ticketrail_core::event::Event;
use ticketrail_core::outcome::Outcome;
use ticketrail_core::row::{Row, RowKey};
use ticketrail_core::state::State;

use super::coverage::Coverage;
use super::normal;
use super::state::Model;

/// Entries with their log indexes.
pub type Script = Vec<(u64, Entry)>;

/// What one side said that the other did not.
pub type Difference = String;

/// The second core is restored anew after so many entries.
const RESTORE_EVERY: usize = 97;
/// Everything slow to compare is compared after so many entries.
const LOOK_EVERY: usize = 23;

/// Model and cores, fed the same.
pub struct Pair {
    /// The naive one.
    pub model: Model,
    /// What was reached so far.
    pub coverage: Coverage,
    core: State,
    restored: State,
    rows: BTreeMap<RowKey, Row>,
    steps: usize,
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// Before the first entry.
    pub fn new() -> Self {
        Self {
            model: Model::new(),
            coverage: Coverage::default(),
            core: State::new(),
            restored: State::new(),
            rows: BTreeMap::new(),
            steps: 0,
        }
    }

    /// Applies an entry everywhere and compares. Answers what the model said.
    ///
    /// # Errors
    /// The first difference found, in words.
    pub fn step(
        &mut self,
        index: u64,
        entry: &Entry,
    ) -> Result<(Vec<Outcome>, Vec<Event>), Difference> {
        let (outcomes, events) = self.model.apply(index, entry);
        let halted = |halt| format!("the core halted: {halt:?}");
        let applied = self.core.apply(index, entry).map_err(halted)?;
        let again = self.restored.apply(index, entry).map_err(halted)?;
        equal("restored core", &applied, &again)?;
        equal("digest", &self.core.digest(), &self.restored.digest())?;
        let core: Vec<Outcome> = applied.outcomes.iter().map(normal::outcome).collect();
        let model: Vec<Outcome> = outcomes.iter().map(normal::outcome).collect();
        for (place, (model, core)) in model.iter().zip(&core).enumerate() {
            let command = entry.commands.get(place);
            equal_in(|| format!("answer {place} to {command:?}"), model, core)?;
        }
        equal("number of answers", &model.len(), &core.len())?;
        self.compare_events(&events, &applied.events)?;
        self.compare_often()?;
        self.steps += 1;
        if self.steps.is_multiple_of(LOOK_EVERY) {
            self.compare_rarely()?;
        }
        if self.steps.is_multiple_of(RESTORE_EVERY) {
            self.restore()?;
        }
        self.coverage.see(entry, &outcomes, &events);
        for (place, times) in self.model.take_places() {
            self.coverage.add("place", place, times);
        }
        Ok((outcomes, events))
    }

    fn compare_events(&self, model: &[Event], core: &[Event]) -> Result<(), Difference> {
        let (model, core) = (normal::events(model), normal::events(core));
        for (place, (model, core)) in model.iter().zip(&core).enumerate() {
            equal_in(|| format!("event {place}"), model, core)?;
        }
        let more = model.len().min(core.len());
        equal("further events", &model[more..], &core[more..])
    }

    /// The net changes add up to the rows; a core made of them goes on as if nothing happened.
    fn restore(&mut self) -> Result<(), Difference> {
        let stored = &mut self.rows;
        self.core.drain_changes(|key, row| match row {
            Some(row) => drop(stored.insert(key, row)),
            None => drop(stored.remove(&key)),
        });
        let rows: BTreeMap<RowKey, Row> = self.core.rows().into_iter().collect();
        for (key, row) in &rows {
            equal_in(|| format!("row {key:?}"), &Some(row), &self.rows.get(key))?;
        }
        for key in self.rows.keys() {
            equal(
                "stale row",
                &None,
                &(!rows.contains_key(key)).then_some(key),
            )?;
        }
        self.coverage.add("check", "rows accumulated", 1);
        let restored = State::restore(self.rows.clone());
        self.restored = restored.map_err(|error| format!("not restored: {error:?}"))?;
        equal("digest", &self.core.digest(), &self.restored.digest())?;
        let again: BTreeMap<RowKey, Row> = self.restored.rows().into_iter().collect();
        equal("rows of the restored core", &rows, &again)?;
        self.coverage.add("check", "restored and went on", 1);
        Ok(())
    }
}

/// A short script is worth some waiting.
const SHRINK_AT_MOST: Duration = Duration::from_secs(30);

/// Feeds a whole script; a panic is a difference too.
///
/// # Errors
/// The place in the script, and the difference.
pub fn play(script: &Script) -> Result<Coverage, (usize, Difference)> {
    let mut pair = Pair::new();
    for (place, (index, entry)) in script.iter().enumerate() {
        let step = catch_unwind(AssertUnwindSafe(|| pair.step(*index, entry)));
        match step {
            Ok(Ok(_)) => {}
            Ok(Err(difference)) => return Err((place, difference)),
            Err(panic) => return Err((place, format!("panicked: {}", words(&*panic)))),
        }
    }
    Ok(pair.coverage)
}

/// What a panic said.
pub fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    let fixed = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    owned.or(fixed).unwrap_or_default()
}

/// Leaves out entries, then commands, as long as the script still fails somehow.
pub fn shrink(mut script: Script) -> (Script, Difference) {
    let Err((place, mut difference)) = play(&script) else {
        return (script, "did not fail again".to_owned());
    };
    script.truncate(place + 1);
    // What fails otherwise is another failure; the first words tell.
    let sort = |d: &Difference| d.split([':', '(', '\n']).next().map(str::to_owned);
    let wanted = sort(&difference);
    let end = Instant::now() + SHRINK_AT_MOST;
    let mut chunk = script.len() / 2;
    while chunk > 0 && Instant::now() < end {
        let mut from = 0;
        while from < script.len() && Instant::now() < end {
            let mut shorter = script.clone();
            shorter.drain(from..(from + chunk).min(script.len()));
            match play(&shorter) {
                Err((place, now)) if sort(&now) == wanted => {
                    shorter.truncate(place + 1);
                    (script, difference) = (shorter, now);
                }
                _ => from += chunk,
            }
        }
        chunk /= 2;
    }
    for place in (0..script.len()).rev() {
        if Instant::now() > end {
            break;
        }
        for command in (0..script.get(place).map_or(0, |(_, e)| e.commands.len())).rev() {
            let mut shorter = script.clone();
            shorter[place].1.commands.remove(command);
            if let Err((end, now)) = play(&shorter)
                && sort(&now) == wanted
            {
                shorter.truncate(end + 1);
                (script, difference) = (shorter, now);
            }
        }
    }
    (script, difference)
}

fn equal<T: PartialEq + Debug + ?Sized>(what: &str, model: &T, core: &T) -> Result<(), Difference> {
    equal_in(|| what.to_owned(), model, core)
}

/// [`equal`] for when it takes time to say what is compared.
fn equal_in<T: PartialEq + Debug + ?Sized>(
    what: impl FnOnce() -> String,
    model: &T,
    core: &T,
) -> Result<(), Difference> {
    if model == core {
        return Ok(());
    }
    let what = what();
    Err(format!(
        "{what} differs\n  model: {model:?}\n  core:  {core:?}"
    ))
}
