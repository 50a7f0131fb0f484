use ticketrail_broker::{NewMessage, Producer, Published};
use ticketrail_core::Rejection;
use ticketrail_core::outcome::{AcceptedRange, RefusedItem};
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;

use super::{Checked, Trace, at_most, commit_position, message, not_yet, producer_id};
use crate::config::MessageLimits;
use crate::limits;

/// The messages of a batch, in their order, ready to be stored.
pub(crate) fn batch(
    items: Vec<v1::PublishItem>,
    limits: &MessageLimits,
    trace: &Trace,
) -> Checked<Vec<NewMessage>> {
    if items.is_empty() || items.len() > limits.batch_messages_max {
        let (max, found) = (limits.batch_messages_max, items.len());
        return Err(Problem::invalid_field(
            "items",
            format!("1..{max} messages, it has {found}"),
        ));
    }
    let mut bytes = 0;
    let mut messages = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        let message = one(item, limits, trace)
            .map_err(|problem| problem.inside(&format!("items[{place}]")))?;
        bytes += message.message.len();
        messages.push(message);
    }
    if bytes > limits.batch_bytes_max {
        let must = format!(
            "up to {} bytes of messages, it has {bytes}",
            limits.batch_bytes_max
        );
        return Err(Problem::invalid_field("items", must));
    }
    Ok(messages)
}

fn one(item: v1::PublishItem, limits: &MessageLimits, trace: &Trace) -> Checked<NewMessage> {
    not_yet(!item.exchange.is_empty(), "exchange")?;
    at_most(
        item.routing_key.len(),
        limits::ROUTING_KEY_BYTES_MAX,
        "routing_key",
    )?;
    let message = item
        .message
        .ok_or_else(|| Problem::invalid_field("message", "given"))?;
    message::check(&message, limits.body_bytes_max).map_err(|problem| problem.inside("message"))?;
    let given = message::stored(&message);
    // A retry comes with another span: what it must repeat is what the client gave.
    let traced = trace
        .added_to(&message)
        .map(|traced| message::stored(&traced));
    let (message, given) = match traced {
        Some(traced) => (traced, Some(given)),
        None => (given, None),
    };
    Ok(NewMessage {
        routing_key: item.routing_key,
        mandatory: item.mandatory,
        message,
        given,
    })
}

/// The producer of a request and the sequence of its first message.
pub(crate) fn producer(wire: &v1::ProducerSequence) -> Checked<(Producer, u64)> {
    let id = producer_id(&wire.producer_id, "producer.producer_id")?;
    if wire.epoch == 0 {
        return Err(Problem::invalid_field(
            "producer.epoch",
            "the epoch that OpenProducer gave",
        ));
    }
    if wire.first_sequence == 0 {
        return Err(Problem::invalid_field(
            "producer.first_sequence",
            "1 or more",
        ));
    }
    Ok((
        Producer {
            id,
            epoch: wire.epoch,
        },
        wire.first_sequence,
    ))
}

/// The answer to an all-or-nothing batch of `count` messages: a result per item, or the first
/// refusal with all refused items named.
pub(crate) fn item_results(published: &Published, count: usize) -> Checked<Vec<v1::PublishResult>> {
    if !published.refused.is_empty() {
        return Err(batch_refused(&published.refused));
    }
    let mut results = Vec::with_capacity(count);
    for range in &published.accepted {
        results.extend((0..range.count).map(|place| result(range, place)));
    }
    Ok(results)
}

fn batch_refused(refused: &[RefusedItem]) -> Problem {
    let own = |item: &&RefusedItem| item.rejection != Rejection::BatchRefused;
    let items: Vec<_> = refused
        .iter()
        .filter(own)
        .map(|item| item.item.to_string())
        .collect();
    let first = refused.iter().find(own).or(refused.first());
    let problem = first.map_or_else(
        || Problem::from(&Rejection::BatchRefused),
        |first| Problem::from(&first.rejection).inside(&format!("items[{}]", first.item)),
    );
    problem.with("items", items.join(","))
}

fn result(range: &AcceptedRange, place: u32) -> v1::PublishResult {
    let first = range.first_message_id.0;
    v1::PublishResult {
        message_id: if first == 0 {
            0
        } else {
            first + u64::from(place)
        },
        queues: range.queues,
        duplicate: range.duplicate,
    }
}

/// Adds what became of one frame of a stream, whose first message has `first_sequence`, to a
/// confirm.
pub(crate) fn confirm(
    first_sequence: u64,
    count: u32,
    published: &Published,
    confirm: &mut v1::PublishConfirm,
) {
    confirm.through_sequence = first_sequence + u64::from(count) - 1;
    for range in &published.accepted {
        let sequence = first_sequence + u64::from(range.first_item);
        if range.duplicate || range.queues == 0 {
            confirm
                .exceptions
                .extend((0..range.count).map(|place| v1::PublishException {
                    sequence: sequence + u64::from(place),
                    kind: Some(v1::publish_exception::Kind::Result(result(range, place))),
                }));
        } else {
            confirm.ranges.push(v1::ConfirmedRange {
                first_sequence: sequence,
                count: range.count,
                first_message_id: range.first_message_id.0,
                queues: range.queues,
                position: Some(commit_position(published.position)),
            });
        }
    }
    confirm
        .exceptions
        .extend(published.refused.iter().map(|item| v1::PublishException {
            sequence: first_sequence + u64::from(item.item),
            kind: Some(v1::publish_exception::Kind::Refusal(
                Problem::from(&item.rejection).into_refusal(),
            )),
        }));
    confirm
        .exceptions
        .sort_by_key(|exception| exception.sequence);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use prost::Message as _;
    use ticketrail_core::{MessageId, Position};
    use ticketrail_proto::error::Reason;

    const LIMITS: MessageLimits = MessageLimits {
        body_bytes_max: 8,
        batch_messages_max: 3,
        batch_bytes_max: 40,
    };

    fn item(body: &'static [u8]) -> v1::PublishItem {
        v1::PublishItem {
            routing_key: "orders".to_owned(),
            message: Some(v1::Message {
                body: Bytes::from_static(body),
                ..v1::Message::default()
            }),
            ..v1::PublishItem::default()
        }
    }

    fn check(items: Vec<v1::PublishItem>) -> Checked<Vec<NewMessage>> {
        batch(items, &LIMITS, &Trace::default())
    }

    #[test]
    fn a_batch_at_its_bounds_passes_in_order() {
        let messages = check(vec![item(b"1"), item(b"12345678"), item(b"3")]).unwrap();
        let stored = messages
            .iter()
            .map(|m| v1::Message::decode(m.message.clone()).unwrap().body);
        assert_eq!(stored.collect::<Vec<_>>(), [&b"1"[..], b"12345678", b"3"]);
        assert_eq!(messages[2].routing_key, "orders");
    }

    #[test]
    fn each_bad_batch_names_its_field() {
        type Change = fn(&mut Vec<v1::PublishItem>);
        let table: &[(Change, Reason, &str)] = &[
            (Vec::clear, Reason::InvalidField, "items"),
            (|i| i.push(i[0].clone()), Reason::InvalidField, "items"),
            (
                |i| i[1].exchange = "x".into(),
                Reason::NotYet,
                "items[1].exchange",
            ),
            (
                |i| i[2].routing_key = "k".repeat(256),
                Reason::InvalidField,
                "items[2].routing_key",
            ),
            (
                |i| i[1].message = None,
                Reason::InvalidField,
                "items[1].message",
            ),
            (
                |i| i[1] = item(b"123456789"),
                Reason::InvalidField,
                "items[1].message.body",
            ),
        ];
        for (change, reason, field) in table {
            let mut items = vec![item(b"1"), item(b"2"), item(b"3")];
            change(&mut items);
            let problem = check(items).unwrap_err();
            assert_eq!(problem.reason(), *reason, "{problem}");
            assert!(
                problem.message().starts_with(&format!("`{field}`")),
                "{field}: {problem}"
            );
        }
        let mut large = vec![item(b"12345678"); 3];
        for (place, item) in large.iter_mut().enumerate() {
            let properties = v1::Properties {
                reply_to: format!("{place:06}"),
                ..Default::default()
            };
            item.message.as_mut().unwrap().properties = Some(properties);
        }
        let problem = check(large).unwrap_err();
        assert!(
            problem
                .message()
                .starts_with("`items` must be up to 40 bytes"),
            "{problem}"
        );
    }

    #[test]
    fn what_was_given_is_known_where_a_trace_was_added() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut request = tonic::Request::new(());
        let metadata = request.metadata_mut();
        metadata.insert("traceparent", parent.parse().unwrap());
        let limits = MessageLimits {
            batch_bytes_max: 1_000,
            ..LIMITS
        };
        let stored = batch(vec![item(b"x")], &limits, &Trace::of(&request)).unwrap();
        let given = message::stored(item(b"x").message.as_ref().unwrap());
        assert_eq!(stored[0].given.as_ref(), Some(&given));
        let untraced = batch(vec![item(b"x")], &limits, &Trace::default()).unwrap();
        assert_eq!((&untraced[0].given, &untraced[0].message), (&None, &given));
    }

    #[test]
    fn a_producer_needs_all_its_parts() {
        let good = v1::ProducerSequence {
            producer_id: Bytes::copy_from_slice(&7_u128.to_be_bytes()),
            epoch: 1,
            first_sequence: 1,
        };
        assert!(producer(&good).is_ok());
        for (bad, field) in [
            (
                v1::ProducerSequence {
                    producer_id: Bytes::new(),
                    ..good.clone()
                },
                "producer_id",
            ),
            (
                v1::ProducerSequence {
                    epoch: 0,
                    ..good.clone()
                },
                "epoch",
            ),
            (
                v1::ProducerSequence {
                    first_sequence: 0,
                    ..good
                },
                "first_sequence",
            ),
        ] {
            let problem = producer(&bad).unwrap_err();
            assert!(
                problem
                    .message()
                    .starts_with(&format!("`producer.{field}`")),
                "{problem}"
            );
        }
    }

    fn published() -> Published {
        let range = |first_item, count, id, queues, duplicate| AcceptedRange {
            first_item,
            count,
            first_message_id: MessageId(id),
            queues,
            duplicate,
        };
        Published {
            position: Position { index: 5, place: 1 },
            accepted: vec![range(0, 2, 40, 1, false), range(2, 1, 0, 0, true)],
            refused: vec![],
        }
    }

    #[test]
    fn results_are_per_item_and_confirms_are_per_range() {
        let results = item_results(&published(), 3).unwrap();
        let found: Vec<_> = results
            .iter()
            .map(|r| (r.message_id, r.queues, r.duplicate))
            .collect();
        assert_eq!(found, [(40, 1, false), (41, 1, false), (0, 0, true)]);

        let refused = RefusedItem {
            item: 3,
            rejection: Rejection::OutOfSequence { expected: 9 },
        };
        let published = Published {
            refused: vec![refused],
            ..published()
        };
        let mut frame = v1::PublishConfirm::default();
        confirm(100, 4, &published, &mut frame);
        assert_eq!(frame.through_sequence, 103);
        assert_eq!(
            (frame.ranges[0].first_sequence, frame.ranges[0].count),
            (100, 2)
        );
        let sequences: Vec<_> = frame.exceptions.iter().map(|e| e.sequence).collect();
        assert_eq!(sequences, [102, 103]);
    }

    #[test]
    fn a_refused_batch_names_the_guilty_items() {
        let refused = |item, rejection| RefusedItem { item, rejection };
        let unroutable = || Rejection::Unroutable {
            routing_key: "nowhere".to_owned(),
        };
        let published = Published {
            accepted: vec![],
            refused: vec![
                refused(0, Rejection::BatchRefused),
                refused(1, unroutable()),
                refused(2, Rejection::BatchRefused),
                refused(3, unroutable()),
            ],
            ..published()
        };
        let problem = item_results(&published, 4).unwrap_err();
        assert_eq!(problem.reason(), Reason::Unroutable);
        assert_eq!(problem, Problem::from(&unroutable()).with("items", "1,3"));
    }
}
