//! Small things that many messages hold.

use ticketrail_core::{BootId, NodeId, Owner};

use crate::store;

pub(crate) fn id128(value: u128) -> store::Id128 {
    store::Id128 {
        high: (value >> 64) as u64,
        low: value as u64,
    }
}

pub(crate) fn id128_from(value: store::Id128) -> u128 {
    (u128::from(value.high) << 64) | u128::from(value.low)
}

pub(crate) fn owner(value: Owner) -> store::Owner {
    store::Owner {
        node_id: value.node.0,
        boot_id: value.boot.0,
        connection: value.connection,
    }
}

pub(crate) fn owner_from(value: store::Owner) -> Owner {
    Owner {
        node: NodeId(value.node_id),
        boot: BootId(value.boot_id),
        connection: value.connection,
    }
}
