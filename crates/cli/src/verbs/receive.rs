//! `ticketrail receive` and `ticketrail settle`: leases without a connection that holds them.

use serde_json::json;
use ticketrail_client::{Receipt, SettleOutcome, Settlement, Wanted};

use super::Context;
use crate::args::{Receive, Settle, SettleHow};
use crate::failure::{Failure, Result};
use crate::show::{self, message};

pub(super) async fn receive(context: &Context, args: Receive) -> Result {
    let mut wanted = Wanted::up_to(args.count).wait(args.wait);
    if let Some(lease) = args.lease {
        wanted = wanted.lease(lease);
    }
    let deliveries = context.client.receive(&args.queue, wanted).await?;
    for delivery in &deliveries {
        if args.raw {
            context.show.bytes(delivery.body())?;
        } else if context.show.is_json() {
            context.show.json(&message::delivery_json(delivery))?;
        } else {
            context.show.line(&message::delivery_block(delivery))?;
        }
    }
    if deliveries.is_empty() && !context.show.is_json() {
        show::remark(&format!("nothing is ready in `{}`", args.queue));
    }
    if args.ack && !deliveries.is_empty() {
        let receipts = deliveries.iter().map(|delivery| delivery.receipt());
        let outcomes = context.client.ack(&args.queue, receipts).await?;
        all_settled(&outcomes)?;
    }
    Ok(())
}

pub(super) async fn settle(context: &Context, args: Settle) -> Result {
    let receipts = args.receipts.iter().map(|text| {
        message::parse_receipt(text)
            .ok_or_else(|| Failure::Usage(format!("`{text}` is not a receipt of `receive`")))
    });
    let receipts: Vec<Receipt> = receipts.collect::<Result<_>>()?;
    let settlement = settlement(&args.how, args.delay);
    let items = receipts.into_iter().map(|receipt| (receipt, settlement));
    let outcomes = match context.client.settle(&args.queue, items).await {
        Err(error)
            if error
                .field()
                .is_some_and(|field| field.ends_with(".receipt")) =>
        {
            // A receipt of another queue: is there one of this name at all?
            context.client.get_queue(&args.queue).await?;
            return Err(error.into());
        }
        outcomes => outcomes?,
    };
    for (text, outcome) in args.receipts.iter().zip(&outcomes) {
        let object = json!({ "receipt": text, "outcome": outcome_word(*outcome) });
        context.show.done(outcome_sentence(*outcome), &object)?;
    }
    all_settled(&outcomes)
}

/// Refused unless every wish is fulfilled.
fn all_settled(outcomes: &[SettleOutcome]) -> Result {
    let lost = outcomes
        .iter()
        .filter(|outcome| !is_settled(**outcome))
        .count();
    if lost == 0 {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "{lost} of {} could not be settled: the lease was over, and the message may come again",
        outcomes.len()
    )))
}

pub(super) fn is_settled(outcome: SettleOutcome) -> bool {
    matches!(outcome, SettleOutcome::Ok | SettleOutcome::AlreadySettled)
}

pub(super) fn outcome_word(outcome: SettleOutcome) -> &'static str {
    match outcome {
        SettleOutcome::Unspecified => "unknown",
        SettleOutcome::Ok => "ok",
        SettleOutcome::AlreadySettled => "already_settled",
        SettleOutcome::LeaseLost => "lease_lost",
        SettleOutcome::NotFound => "not_found",
    }
}

fn outcome_sentence(outcome: SettleOutcome) -> &'static str {
    match outcome {
        SettleOutcome::Unspecified => "unknown",
        SettleOutcome::Ok => "done",
        SettleOutcome::AlreadySettled => "done before; nothing changed",
        SettleOutcome::LeaseLost => {
            "lease lost: the message may be with someone else; nothing changed"
        }
        SettleOutcome::NotFound => "no such message any more; nothing changed",
    }
}

fn settlement(how: &SettleHow, delay: Option<std::time::Duration>) -> Settlement {
    match how.extend {
        Some(lease) => Settlement::Extend(lease),
        None if how.ack => Settlement::Ack,
        None if how.nack => Settlement::Nack(delay),
        None if how.reject => Settlement::Reject,
        None => Settlement::Release,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_settled_before_counts_as_settled_and_a_lost_lease_does_not() {
        assert!(all_settled(&[SettleOutcome::Ok, SettleOutcome::AlreadySettled]).is_ok());
        let failure = all_settled(&[SettleOutcome::Ok, SettleOutcome::LeaseLost]).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.lines()[0].contains("1 of 2"));
    }
}
