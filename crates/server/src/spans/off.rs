//! Without the feature: nothing.

use std::ops::RangeInclusive;

use ticketrail_broker::Published;
use ticketrail_core::NodeId;
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;

use crate::convert::Trace;

/// Makes spans.
#[derive(Debug)]
pub(crate) struct Spans {}

/// The messages of a batch on their way into the log.
#[derive(Debug)]
pub(crate) struct Publishing {}

/// What a stream has delivered and not settled.
#[derive(Debug, Default)]
pub(crate) struct Delivered {}

/// Settlements on their way into the log.
#[derive(Debug, Default)]
pub(crate) struct Settling {}

impl Spans {
    pub(crate) fn start(_endpoint: Option<&str>, _node: NodeId) -> Result<Self, String> {
        Ok(Self {})
    }

    pub(crate) async fn stop(&self) {}

    pub(crate) fn publishing(&self, _items: &[v1::PublishItem], _trace: &Trace) -> Publishing {
        Publishing {}
    }

    pub(crate) fn deliver(&self, _queue: &str, _deliveries: &[v1::Delivery]) -> Delivered {
        Delivered {}
    }
}

impl Publishing {
    pub(crate) fn handed_over(&mut self) {}

    pub(crate) fn done(self, _result: Result<&Published, &Problem>) {}
}

impl Delivered {
    pub(crate) fn add(&mut self, _more: Self) {}

    pub(crate) fn forget(&mut self, _ids: &[u64]) {}

    pub(crate) fn settle(&mut self, _ids: RangeInclusive<u64>, _kind: i32, _into: &mut Settling) {}
}

impl Settling {
    pub(crate) fn done(self, _result: Result<(), &Problem>) {}
}
