//! Spans of messages, as a collector gets them: one trace from a publish on one node to the settlement
//! on another.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use support::{Cluster, PATIENCE, item};
use ticketrail_proto::v1::{
    self, consume_request, consume_response, publish_stream_request, publish_stream_response,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const STREAM_TRACE: &str = "1bf7651916cd43dd8448eb211c80319c";
const UNSAMPLED_TRACE: &str = "2cf7651916cd43dd8448eb211c80319c";
/// The span of the user's program that publishes.
const USER_SPAN: &str = "b7ad6b7169203331";

/// A collector that keeps what it gets, with the node that it is from.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_node in request.into_inner().resource_spans {
            let attributes = of_node.resource.unwrap().attributes;
            let instance = attributes.iter().find(|a| a.key == "service.instance.id");
            let node = match instance.unwrap().value.as_ref().unwrap().value.as_ref() {
                Some(Value::StringValue(node)) => node.clone(),
                other => panic!("{other:?}"),
            };
            let spans = of_node
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            let spans = spans.map(|span| (node.clone(), span));
            self.0.lock().unwrap().extend(spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Its endpoint.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serve);
        format!("http://{address}")
    }

    /// The spans of a trace by name; no name comes twice.
    fn trace(&self, id: &str) -> BTreeMap<String, (String, Span)> {
        let all = self.0.lock().unwrap().clone();
        let of_trace = all
            .into_iter()
            .filter(|(_, span)| hex(&span.trace_id) == id);
        let mut found = BTreeMap::new();
        for (node, span) in of_trace {
            let twice = found.insert(span.name.clone(), (node, span));
            assert!(twice.is_none(), "{twice:?}");
        }
        found
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traced(trace: &str, flags: &str) -> v1::PublishItem {
    let mut item = item("orders", trace.to_owned());
    let text = format!("00-{trace}-{USER_SPAN}-{flags}");
    let value = Some(v1::header_value::Value::Text(text));
    item.message.as_mut().unwrap().headers.push(v1::Header {
        key: "traceparent".to_owned(),
        value: Some(v1::HeaderValue { value }),
    });
    item
}

async fn publish_on_a_stream(cluster: &Cluster, place: usize) {
    let (frames, sent) = mpsc::channel(4);
    let push = async |frame| {
        let frame = Some(frame);
        frames
            .send(v1::PublishStreamRequest { frame })
            .await
            .unwrap();
    };
    push(publish_stream_request::Frame::Open(
        v1::PublishOpen::default(),
    ))
    .await;
    push(publish_stream_request::Frame::Batch(v1::PublishBatch {
        first_sequence: 1,
        items: vec![item("orders", STREAM_TRACE)],
    }))
    .await;
    let mut request = Request::new(ReceiverStream::new(sent));
    let parent = format!("00-{STREAM_TRACE}-{USER_SPAN}-01");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    let mut publisher = cluster.publisher(place);
    let mut answers = publisher
        .publish_stream(request)
        .await
        .unwrap()
        .into_inner();
    loop {
        let answer = answers.message().await.unwrap().unwrap();
        if let Some(publish_stream_response::Frame::Confirm(confirm)) = answer.frame {
            assert!(confirm.exceptions.is_empty(), "{confirm:?}");
            return;
        }
    }
}

/// Takes so many messages and acknowledges all in one frame.
async fn consume(cluster: &Cluster, place: usize, count: u64) {
    let (frames, sent) = mpsc::channel(4);
    let push = async |frame| {
        let frame = Some(frame);
        frames.send(v1::ConsumeRequest { frame }).await.unwrap();
    };
    push(consume_request::Frame::Open(v1::ConsumeOpen {
        queue: "orders".to_owned(),
        ..Default::default()
    }))
    .await;
    let mut consumer = cluster.consumer(place);
    let answers = consumer.consume(ReceiverStream::new(sent)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut came = 0;
    loop {
        match answers.message().await.unwrap().unwrap().frame {
            Some(consume_response::Frame::Deliveries(frame)) => {
                came += frame.deliveries.len() as u64;
                if came == count {
                    let range = v1::SettleRange {
                        first_delivery_id: 1,
                        last_delivery_id: count,
                        kind: v1::SettleKind::Ack as i32,
                        ..Default::default()
                    };
                    let ranges = vec![range];
                    push(consume_request::Frame::Settlement(v1::ConsumeSettlement {
                        ranges,
                    }))
                    .await;
                }
            }
            Some(consume_response::Frame::Settled(settled)) => {
                assert!(settled.exceptions.is_empty(), "{settled:?}");
                return;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_one_trace_from_its_publish_to_its_settlement() {
    let collector = Collector::default();
    let endpoint = collector.serve().await;
    let mut cluster = Cluster::start_traced(3, endpoint).await;
    cluster.queue("orders").await;
    let items = vec![traced(TRACE, "01"), traced(UNSAMPLED_TRACE, "00")];
    let batch = v1::PublishRequest {
        items,
        ..Default::default()
    };
    cluster.publisher(0).publish(batch).await.unwrap();
    timeout(PATIENCE, publish_on_a_stream(&cluster, 2))
        .await
        .unwrap();
    timeout(PATIENCE, consume(&cluster, 1, 3)).await.unwrap();
    // A stop sends what is left.
    for place in 0..3 {
        cluster.stop(place).await.unwrap();
    }

    for (trace, publisher) in [(TRACE, "1"), (STREAM_TRACE, "3")] {
        let spans = collector.trace(trace);
        let names: Vec<_> = spans.keys().map(String::as_str).collect();
        assert_eq!(names, ["commit", "deliver", "publish", "settle"]);
        let [commit, deliver, publish, settle] =
            ["commit", "deliver", "publish", "settle"].map(|name| &spans[name]);
        let nodes = [publish, commit, deliver, settle].map(|(node, _)| node.as_str());
        assert_eq!(nodes, [publisher, publisher, "2", "2"]);
        let [commit, deliver, publish, settle] =
            [commit, deliver, publish, settle].map(|(_, span)| span);
        assert_eq!(hex(&publish.parent_span_id), USER_SPAN);
        assert_eq!(commit.parent_span_id, publish.span_id);
        assert_eq!(hex(&deliver.parent_span_id), USER_SPAN);
        assert_eq!(settle.parent_span_id, deliver.span_id);
        for span in [publish, commit, deliver, settle] {
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            let status = span.status.as_ref().map(|status| status.code());
            assert_ne!(status, Some(StatusCode::Error), "{span:?}");
        }
        assert!(publish.start_time_unix_nano <= commit.start_time_unix_nano);
        assert!(commit.end_time_unix_nano <= publish.end_time_unix_nano);
        assert!(publish.start_time_unix_nano < deliver.start_time_unix_nano);
        assert!(deliver.start_time_unix_nano < settle.start_time_unix_nano);
    }
    assert!(collector.trace(UNSAMPLED_TRACE).is_empty());
}
