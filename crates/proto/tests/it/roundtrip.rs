//! Nothing is lost between the core and the bytes.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use ticketrail_core::{Command, LeaseTime, Stamps, WallTime};
use ticketrail_proto::stored::{
    decode_bodies, decode_command, decode_entry, decode_row, decode_row_key, encode_command,
    encode_entry, encode_row, encode_row_key,
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
