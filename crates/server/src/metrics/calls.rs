//! Calls and streams of clients, counted by method, status and reason.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message as _;
use ticketrail_proto::PUBLIC_DESCRIPTORS;
use ticketrail_proto::error::{Reason, reason_of};
use tonic::body::Body;
use tonic::codegen::Body as HttpBody;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};

/// Codes that gRPC has, 0 to 16.
const CODES: usize = 17;
/// Where calls of methods are counted that are not ours: health, reflection, and what does not exist.
const OTHER: &str = "other";
const STATUS: &str = "grpc-status";

/// What is counted.
#[derive(Debug)]
pub(crate) struct Calls {
    /// By path, ascending; the last is [`OTHER`].
    methods: Vec<Method>,
    /// In the order of [`Reason::ALL`].
    refusals: Vec<AtomicU64>,
}

#[derive(Debug, Default)]
struct Method {
    /// `/ticketrail.v1.PublisherService/Publish`.
    path: String,
    open: AtomicU64,
    ended: [AtomicU64; CODES],
}

impl Default for Calls {
    fn default() -> Self {
        let descriptors = prost_types::FileDescriptorSet::decode(PUBLIC_DESCRIPTORS)
            .expect("the protos were compiled into this program");
        let mut paths = Vec::new();
        for file in &descriptors.file {
            for service in &file.service {
                let methods = service.method.iter();
                let path = |method: &prost_types::MethodDescriptorProto| {
                    let (package, service) = (file.package(), service.name());
                    format!("/{package}.{service}/{}", method.name())
                };
                paths.extend(methods.map(path));
            }
        }
        paths.sort();
        paths.push(OTHER.to_owned());
        let method = |path| Method {
            path,
            ..Method::default()
        };
        Self {
            methods: paths.into_iter().map(method).collect(),
            refusals: Reason::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Calls {
    /// A call of a path begins.
    pub(crate) fn begin(self: &Arc<Self>, path: &str) -> Call {
        let ours = &self.methods[..self.methods.len() - 1];
        let found = ours.binary_search_by(|method| method.path.as_str().cmp(path));
        let place = found.unwrap_or(ours.len());
        self.methods[place].open.fetch_add(1, Ordering::Relaxed);
        Call {
            calls: Arc::clone(self),
            place,
            code: None,
        }
    }

    /// Something was refused; a call's own refusal is counted by its [`Call`].
    pub(crate) fn refused(&self, reason: Reason) {
        // The order of the enum is that of ALL.
        if let Some(count) = self.refusals.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For each method: its name (`PublisherService/Publish`), how many are open, and how many ended
    /// with each code.
    pub(crate) fn methods(&self) -> impl Iterator<Item = (&str, u64, [u64; CODES])> {
        self.methods.iter().map(|method| {
            let name = method
                .path
                .rsplit_once("v1.")
                .map_or(OTHER, |(_, name)| name);
            let ended = method.ended.each_ref();
            let ended = ended.map(|count| count.load(Ordering::Relaxed));
            (name, method.open.load(Ordering::Relaxed), ended)
        })
    }

    /// How often each reason was given.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.refusals.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.iter().copied().zip(counts)
    }
}

/// A call that is open, until it is dropped. Without a status by then its client went away.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Arc<Calls>,
    place: usize,
    code: Option<Code>,
}

impl Call {
    /// Notes a status, if these headers or trailers have one.
    fn note(&mut self, headers: &HeaderMap) {
        let Some(code) = headers.get(STATUS) else {
            return;
        };
        let code = Code::from_bytes(code.as_bytes());
        self.code = Some(code);
        if code == Code::Ok {
            return;
        }
        let status = Status::from_header_map(headers);
        if let Some(reason) = status.as_ref().and_then(reason_of) {
            self.calls.refused(reason);
        }
    }

    /// Watches an answer to its end.
    pub(crate) fn watch(mut self, headers: &HeaderMap, body: Body) -> Body {
        self.note(headers);
        Body::new(Answer { body, call: self })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let method = &self.calls.methods[self.place];
        method.open.fetch_sub(1, Ordering::Relaxed);
        let code = self.code.unwrap_or(Code::Cancelled);
        if let Some(count) = method.ended.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The frames of an answer, passed on as they are.
struct Answer {
    body: Body,
    call: Call,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.note(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_proto::error::Problem;

    const PUBLISH: &str = "/ticketrail.v1.PublisherService/Publish";

    fn of(calls: &Calls, name: &str) -> (u64, [u64; CODES]) {
        let mut found = calls.methods().filter(|(method, ..)| *method == name);
        let (_, open, ended) = found.next().unwrap();
        (open, ended)
    }

    #[test]
    fn a_call_counts_from_its_begin_to_its_end_with_its_status_and_reason() {
        let calls = Arc::new(Calls::default());
        let name = "PublisherService/Publish";
        let call = calls.begin(PUBLISH);
        assert_eq!(of(&calls, name).0, 1);
        let refused = Problem::queue_not_found("default", "orders").into_status();
        let answer = refused.into_http::<Body>();
        let (parts, body) = answer.into_parts();
        drop(call.watch(&parts.headers, body));
        drop(calls.begin(PUBLISH));
        let (open, ended) = of(&calls, name);
        assert_eq!(open, 0);
        assert_eq!(ended[Code::NotFound as usize], 1);
        assert_eq!(ended[Code::Cancelled as usize], 1, "it went away");
        let reasons: Vec<_> = calls.refusals().filter(|(_, count)| *count > 0).collect();
        assert_eq!(reasons, [(Reason::QueueNotFound, 1)]);
    }

    #[test]
    fn unknown_paths_make_no_series() {
        let calls = Arc::new(Calls::default());
        let before = calls.methods().count();
        drop(calls.begin("/no.such.Service/Method"));
        assert_eq!(calls.methods().count(), before);
        assert_eq!(of(&calls, OTHER).1[Code::Cancelled as usize], 1);
    }

    #[test]
    fn every_reason_has_its_place() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }
}
