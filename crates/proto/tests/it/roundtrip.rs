//! Nothing is lost between the core and the bytes.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use ticketrail_core::{Command, LeaseTime, Stamps, WallTime};
use ticketrail_proto::stored::{
    Items, Origin, decode_bodies, decode_command, decode_entry, decode_row, decode_row_key,
    encode_command, encode_entry, encode_row, encode_row_key, keep_bodies,
};

use crate::arbitrary;

fn any_command() -> impl Strategy<Value = (Command, Vec<Bytes>)> {
    prop_oneof![
        3 => arbitrary::command().prop_map(|command| (command, Vec::new())),
        1 => arbitrary::publish().prop_map(|(publish, messages)| {
            (Command::Publish(publish), messages.into_iter().map(Bytes::from).collect())
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn a_command_reads_back((command, messages) in any_command(), origin in arbitrary::origin()) {
        let read = decode_command(encode_command(&command, origin, &messages)).unwrap();
        prop_assert_eq!(read.command, command);
        prop_assert_eq!(read.origin, origin);
        prop_assert_eq!(read.messages, messages);
    }

    #[test]
    fn a_row_and_its_key_read_back(row in arbitrary::row(), key in arbitrary::row_key()) {
        prop_assert_eq!(decode_row(&encode_row(&row)).unwrap(), row);
        prop_assert_eq!(decode_row_key(&encode_row_key(&key)).unwrap(), key);
    }

    #[test]
    fn keys_sort_as_their_bytes(a in arbitrary::row_key(), b in arbitrary::row_key()) {
        prop_assert_eq!(encode_row_key(&a).cmp(&encode_row_key(&b)), a.cmp(&b));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_entry_reads_back(
        stamps in any::<(u64, u64)>(),
        commands in vec((any_command(), arbitrary::origin()), 0..12),
    ) {
        let stamps = Stamps { lease_now: LeaseTime(stamps.0), wall_now: WallTime(stamps.1) };
        let encoded: Vec<Bytes> = commands
            .iter()
            .map(|((command, messages), origin)| encode_command(command, *origin, messages))
            .collect();
        let mut payload = BytesMut::new();
        encode_entry(stamps, &encoded, &mut payload);
        let payload = payload.freeze();

        let read = decode_entry(payload.clone()).unwrap();
        prop_assert_eq!(read.entry.stamps, stamps);
        prop_assert_eq!(read.entry.commands.len(), commands.len());
        prop_assert_eq!(&decode_bodies(payload.clone()).unwrap(), &read.bodies);
        let inside = payload.as_ptr_range();
        for (place, ((command, messages), origin)) in commands.iter().enumerate() {
            prop_assert_eq!(&read.entry.commands[place], command);
            prop_assert_eq!(read.origins[place], *origin);
            for (item, message) in messages.iter().enumerate() {
                let body = read.bodies.get(place as u32, item as u32).unwrap();
                prop_assert_eq!(body.message, message);
                prop_assert!(
                    message.is_empty() || inside.contains(&body.message.as_ptr()),
                    "a body was copied"
                );
            }
            prop_assert!(read.bodies.get(place as u32, messages.len() as u32).is_none());
        }
    }
}

type AnyCommand = ((Command, Vec<Bytes>), Option<Origin>);

/// Which messages to keep: those whose bit is set.
fn wanted(commands: &[AnyCommand], bits: u64) -> Vec<Items> {
    let mut wanted: Vec<Items> = Vec::new();
    for (place, ((_, messages), _)) in commands.iter().enumerate() {
        for item in 0..messages.len() {
            if bits.rotate_right((place * 7 + item) as u32) & 1 == 0 {
                continue;
            }
            let (place, item) = (place as u32, item as u32);
            match wanted.last_mut() {
                // Neighbours come as one range or as two.
                Some(last)
                    if last.place == place
                        && last.first_item + last.count == item
                        && item % 3 != 0 =>
                {
                    last.count += 1;
                }
                _ => wanted.push(Items {
                    place,
                    first_item: item,
                    count: 1,
                }),
            }
        }
    }
    wanted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// What is kept is found where it was, nothing else is, and keeping fewer of it later is the same as
    /// keeping fewer at once.
    #[test]
    fn what_is_kept_of_an_entry_reads_back(
        commands in vec((any_command(), arbitrary::origin()), 0..12),
        bits in any::<u64>(),
        fewer in any::<u64>(),
    ) {
        let encoded: Vec<Bytes> = commands
            .iter()
            .map(|((command, messages), origin)| encode_command(command, *origin, messages))
            .collect();
        let mut payload = BytesMut::new();
        let stamps = Stamps { lease_now: LeaseTime(1), wall_now: WallTime(2) };
        encode_entry(stamps, &encoded, &mut payload);
        let payload = payload.freeze();
        let whole = decode_bodies(payload.clone()).unwrap();
        let first = wanted(&commands, bits);
        let kept = keep_bodies(payload.clone(), &first).unwrap();
        let read = decode_bodies(kept.clone()).unwrap();
        for (place, ((_, messages), _)) in commands.iter().enumerate() {
            let place = place as u32;
            for item in 0..messages.len() as u32 + 1 {
                let is_wanted = first.iter().any(|items| {
                    items.place == place
                        && (items.first_item..items.first_item + items.count).contains(&item)
                });
                let expected = whole.get(place, item).filter(|_| is_wanted);
                prop_assert_eq!(read.get(place, item), expected);
            }
        }
        let both = wanted(&commands, bits & fewer);
        let again = keep_bodies(kept.clone(), &both).unwrap();
        prop_assert_eq!(again, keep_bodies(payload, &both).unwrap());
        let gone = wanted(&commands, !bits);
        prop_assert!(gone.is_empty() || keep_bodies(kept, &gone).is_err());
    }
}
