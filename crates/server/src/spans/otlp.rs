//! With the feature: spans go to a collector over OTLP, in batches, from a thread of the exporter's own.
//! What does not fit its queue is dropped; nothing of a message's way ever waits for it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use ticketrail_broker::Published;
use ticketrail_core::NodeId;
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;

use crate::convert::{Trace, is_traceparent, traceparent_of};
use crate::limits;

/// Makes spans; none where no collector is given.
#[derive(Debug)]
pub(crate) struct Spans(Option<Exporter>);

#[derive(Debug)]
struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The sampled messages of a batch on their way into the log.
#[derive(Debug)]
pub(crate) struct Publishing {
    tracer: Option<SdkTracer>,
    messages: Vec<Message>,
    began: SystemTime,
    handed_over: SystemTime,
}

#[derive(Debug)]
struct Message {
    place: usize,
    queue: String,
    parent: SpanContext,
}

/// What a stream has delivered of sampled messages and not settled, by delivery id.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    tracer: Option<SdkTracer>,
    spans: BTreeMap<u64, SpanContext>,
}

/// Settlements of sampled messages on their way into the log.
#[derive(Debug)]
pub(crate) struct Settling {
    tracer: Option<SdkTracer>,
    spans: Vec<(SpanContext, i32)>,
    began: SystemTime,
}

impl Default for Settling {
    fn default() -> Self {
        Self {
            tracer: None,
            spans: Vec::new(),
            began: SystemTime::now(),
        }
    }
}

impl Spans {
    /// To be called inside of tokio.
    ///
    /// # Errors
    /// In words: the endpoint is none.
    pub(crate) fn start(endpoint: Option<&str>, node: NodeId) -> Result<Self, String> {
        let Some(endpoint) = endpoint else {
            return Ok(Self(None));
        };
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(limits::SPANS_EXPORT_MAX)
            .build()
            .map_err(|error| format!("`tracing.otlp_endpoint`: {error}"))?;
        let who = [
            KeyValue::new("service.name", "ticketrail"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", node.to_string()),
        ];
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder_empty().with_attributes(who).build())
            .with_batch_exporter(exporter)
            .build();
        let tracer = provider.tracer("ticketrail");
        tracing::info!(endpoint, "spans of sampled messages are exported");
        Ok(Self(Some(Exporter { provider, tracer })))
    }

    /// Sends what is left.
    pub(crate) async fn stop(&self) {
        let Some(Exporter { provider, .. }) = &self.0 else {
            return;
        };
        let provider = provider.clone();
        let last = move || provider.shutdown_with_timeout(limits::SPANS_LAST_EXPORT_MAX);
        match tokio::task::spawn_blocking(last).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not exported"),
            Err(error) => tracing::warn!(%error, "the last spans were not exported"),
        }
    }

    /// A batch came in; `trace` is that of its request.
    pub(crate) fn publishing(&self, items: &[v1::PublishItem], trace: &Trace) -> Publishing {
        let began = SystemTime::now();
        let tracer = self.0.as_ref().map(|exporter| exporter.tracer.clone());
        let mut messages = Vec::new();
        if tracer.is_some() {
            let parent = trace.parent().and_then(sampled);
            let sampled = items.iter().enumerate().filter_map(|(place, item)| {
                let own = item.message.as_ref().and_then(traceparent_of);
                let parent = own.map_or_else(|| parent.clone(), sampled)?;
                let queue = item.routing_key.clone();
                Some(Message {
                    place,
                    queue,
                    parent,
                })
            });
            messages.extend(sampled);
        }
        Publishing {
            tracer,
            messages,
            began,
            handed_over: began,
        }
    }

    /// These go out now.
    pub(crate) fn deliver(&self, queue: &str, deliveries: &[v1::Delivery]) -> Delivered {
        let Some(Exporter { tracer, .. }) = &self.0 else {
            return Delivered::default();
        };
        let now = SystemTime::now();
        let mut delivered = Delivered {
            tracer: Some(tracer.clone()),
            spans: BTreeMap::new(),
        };
        for delivery in deliveries {
            let parent = delivery.message.as_ref().and_then(traceparent_of);
            let Some(parent) = parent.and_then(sampled) else {
                continue;
            };
            let mut attributes = of_queue("receive", queue);
            let id = delivery.message_id.to_string();
            attributes.push(KeyValue::new("messaging.message.id", id));
            let count = i64::from(delivery.delivery_count);
            attributes.push(KeyValue::new("ticketrail.delivery_count", count));
            let builder = tracer
                .span_builder("deliver")
                .with_kind(SpanKind::Producer)
                .with_start_time(now)
                .with_attributes(attributes);
            let mut span = tracer.build_with_context(builder, &under(parent));
            span.end();
            let context = span.span_context().clone();
            delivered.spans.insert(delivery.delivery_id, context);
        }
        delivered
    }
}

impl Publishing {
    /// The broker has it from now on.
    pub(crate) fn handed_over(&mut self) {
        if !self.messages.is_empty() {
            self.handed_over = SystemTime::now();
        }
    }

    /// Its outcome is known.
    pub(crate) fn done(self, result: Result<&Published, &Problem>) {
        let Some(tracer) = self.tracer.filter(|_| !self.messages.is_empty()) else {
            return;
        };
        let now = SystemTime::now();
        for Message {
            place,
            queue,
            parent,
        } in self.messages
        {
            let builder = tracer
                .span_builder("publish")
                .with_kind(SpanKind::Server)
                .with_start_time(self.began)
                .with_attributes(of_queue("publish", &queue));
            let mut publish = tracer.build_with_context(builder, &under(parent));
            if let Ok(published) = result {
                let position = published.position;
                let index = i64::try_from(position.index).unwrap_or(i64::MAX);
                let builder = tracer
                    .span_builder("commit")
                    .with_start_time(self.handed_over)
                    .with_attributes([KeyValue::new("ticketrail.log_index", index)]);
                let within = under(publish.span_context().clone());
                let mut commit = tracer.build_with_context(builder, &within);
                commit.end_with_timestamp(now);
            }
            if let Some(why) = refused(place, result) {
                publish.set_status(Status::error(why));
            }
            publish.end_with_timestamp(now);
        }
    }
}

/// Why one message of a batch was not stored.
fn refused(place: usize, result: Result<&Published, &Problem>) -> Option<String> {
    match result {
        Ok(published) => {
            let mut refused = published.refused.iter();
            let item = refused.find(|item| item.item as usize == place)?;
            let problem = Problem::from(&item.rejection);
            Some(problem.reason().as_str().to_owned())
        }
        Err(problem) => Some(problem.reason().as_str().to_owned()),
    }
}

impl Delivered {
    /// Waits for the settlements of these, too.
    pub(crate) fn add(&mut self, mut more: Self) {
        self.spans.append(&mut more.spans);
        self.tracer = more.tracer.or(self.tracer.take());
        while self.spans.len() > limits::SPANS_UNSETTLED_MAX {
            self.spans.pop_first();
        }
    }

    /// Their leases are lost.
    pub(crate) fn forget(&mut self, ids: &[u64]) {
        for id in ids {
            self.spans.remove(id);
        }
    }

    /// These are to be settled; a `kind` that only extends leases is waited for again.
    pub(crate) fn settle(&mut self, ids: RangeInclusive<u64>, kind: i32, into: &mut Settling) {
        if self.spans.is_empty() || ids.is_empty() {
            return;
        }
        into.tracer.clone_from(&self.tracer);
        if kind == v1::SettleKind::Extend as i32 {
            let extended = self.spans.range(ids).map(|(_, span)| (span.clone(), kind));
            into.spans.extend(extended);
            return;
        }
        let settled: Vec<u64> = self.spans.range(ids).map(|(id, _)| *id).collect();
        for id in settled {
            into.spans
                .extend(self.spans.remove(&id).map(|span| (span, kind)));
        }
    }
}

impl Settling {
    /// Their outcome is known.
    pub(crate) fn done(self, result: Result<(), &Problem>) {
        let Some(tracer) = self.tracer else { return };
        for (parent, kind) in self.spans {
            let kind = v1::SettleKind::try_from(kind).unwrap_or_default();
            let attributes = [
                KeyValue::new("messaging.system", "ticketrail"),
                KeyValue::new("messaging.operation.name", kind.as_str_name()),
            ];
            let builder = tracer
                .span_builder("settle")
                .with_kind(SpanKind::Server)
                .with_start_time(self.began)
                .with_attributes(attributes);
            let mut span = tracer.build_with_context(builder, &under(parent));
            if let Err(problem) = result {
                span.set_status(Status::error(problem.reason().as_str()));
            }
            span.end();
        }
    }
}

fn of_queue(operation: &'static str, queue: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "ticketrail"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.destination.name", queue.to_owned()),
    ]
}

fn under(parent: SpanContext) -> Context {
    Context::new().with_remote_span_context(parent)
}

/// The span that a `traceparent` names, if it is one and sampled.
fn sampled(traceparent: &str) -> Option<SpanContext> {
    if !is_traceparent(traceparent) {
        return None;
    }
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    context.is_sampled().then_some(context)
}
