use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ticketrail_broker::Admission;
use ticketrail_proto::error::{Problem, Reason};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::counted;
use super::guarded::Connection;
use crate::limits;
use crate::metrics::Calls;

const STATUS: &str = "grpc-status";
const DETAILS: &str = "grpc-status-details-bin";
const MESSAGE: &str = "grpc-message";
const TIMEOUT: &str = "grpc-timeout";

/// Until when a call must be answered: the client's deadline, or the default one. A request
/// extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// The deadline of a call.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Instant {
        let deadline = request.extensions().get::<Self>();
        deadline.map_or_else(
            || Instant::now() + limits::DEADLINE_DEFAULT,
            |deadline| deadline.0,
        )
    }
}

/// What every call passes: its bytes are counted, its deadline is read, a call that hangs is cut off, and a status that is
/// not one of ours (tonic's about a request that is too large, not protobuf, or of an unknown method)
/// gets the details that every status of ours has. And every call is counted.
#[derive(Clone, Debug)]
pub(crate) struct CallLayer {
    pub(crate) calls: Arc<Calls>,
    pub(crate) admission: Arc<Admission>,
    /// The largest request that is decoded.
    pub(crate) request_bytes_max: usize,
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`CallLayer`].
#[derive(Clone, Debug)]
pub(crate) struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let CallLayer {
            calls,
            admission,
            request_bytes_max,
        } = &self.layer;
        let call = calls.begin(request.uri().path());
        if counted::is_unary_publish(request.uri().path())
            && let Err(problem) = admission.check_publish()
        {
            let (parts, body) = problem.into_status().into_http::<Body>().into_parts();
            let body = call.watch(&parts.headers, body);
            return Box::pin(async move { Ok(Response::from_parts(parts, body)) });
        }
        let (parts, body) = request.into_parts();
        let connection = parts.extensions.get::<Connection>();
        let connection = connection.map(|connection| &connection.publish);
        let path = parts.uri.path();
        let (body, shares) = counted::count(path, body, admission, connection, *request_bytes_max);
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(shares.clone());
        let now = Instant::now();
        let asked = timeout(request.headers());
        let deadline = now + asked.unwrap_or(limits::DEADLINE_DEFAULT);
        request.extensions_mut().insert(Deadline(deadline));
        let cut_off = now
            + asked.map_or(limits::CALL_TIME_MAX, |asked| {
                asked.min(limits::CALL_TIME_MAX)
            });
        let answer = self.inner.call(request);
        Box::pin(async move {
            // What a call took is given back when it is answered; streams keep their own.
            let _shares = shares;
            let answer = match tokio::time::timeout_at(cut_off, answer).await {
                Ok(answer) => with_details(answer?),
                Err(_) => deadline_passed().into_status().into_http(),
            };
            let (parts, body) = answer.into_parts();
            let body = call.watch(&parts.headers, body);
            Ok(Response::from_parts(parts, body))
        })
    }
}

/// What a call is told that was not answered in time.
pub(crate) fn deadline_passed() -> Problem {
    Problem::new(
        Reason::DeadlinePassed,
        "the deadline passed; whether it was done is not known: repeat it with the same producer \
         sequence or attempt id, and more time",
    )
}

/// The client's deadline, a little earlier, so that our answer is there before it gives up.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout - limits::DEADLINE_MARGIN.min(timeout / 10))
}

fn with_details(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if headers.contains_key(DETAILS) {
        return response;
    }
    let code = match headers.get(STATUS) {
        None => return response,
        Some(code) => Code::from_bytes(code.as_bytes()),
    };
    if code == Code::Ok {
        return response;
    }
    let text = headers
        .get(MESSAGE)
        .and_then(|text| text.to_str().ok())
        .unwrap_or_default();
    problem_of(code, text).into_status().into_http()
}

/// Our words for a status that tonic made.
fn problem_of(code: Code, text: &str) -> Problem {
    match code {
        Code::OutOfRange => too_large(),
        Code::Internal | Code::InvalidArgument => Problem::invalid_field(
            "request",
            "a gRPC message of the method's type; make the client from the published protos",
        ),
        Code::Unimplemented => Problem::new(
            Reason::NotYet,
            "this release has no such method; check the name, or upgrade",
        ),
        Code::DeadlineExceeded | Code::Cancelled => deadline_passed(),
        Code::Unavailable | Code::ResourceExhausted => {
            Problem::overloaded("calls", limits::RETRY_AFTER)
        }
        _ => {
            tracing::warn!(?code, text, "a status without a reason");
            Problem::new(Reason::Internal, "the server failed; please report this")
        }
    }
}

fn too_large() -> Problem {
    Problem::invalid_field("request", "smaller; see the limits of messages and batches")
}

/// Our words for what ended the frames of a client's stream.
pub(crate) fn frame_problem(status: &Status) -> Problem {
    match status.code() {
        Code::OutOfRange => too_large(),
        code => problem_of(code, status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_proto::error::reason_of;

    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, text.parse().unwrap());
        headers
    }

    #[test]
    fn a_clients_deadline_is_read_and_shortened_a_little() {
        for (text, millis) in [("1S", 995), ("2M", 119_995), ("1H", 3_599_995), ("10m", 9)] {
            assert_eq!(
                timeout(&headers(text)),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "S", "1", "123456789S", "-1S", "1X", "1.5S"] {
            assert_eq!(timeout(&headers(text)), None, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn a_status_of_another_origin_gets_our_details() {
        for (code, reason, new_code) in [
            (
                Code::OutOfRange,
                Reason::InvalidField,
                Code::InvalidArgument,
            ),
            (Code::Internal, Reason::InvalidField, Code::InvalidArgument),
            (Code::Unimplemented, Reason::NotYet, Code::Unimplemented),
            (
                Code::Cancelled,
                Reason::DeadlinePassed,
                Code::DeadlineExceeded,
            ),
        ] {
            let response = with_details(Status::new(code, "x").into_http());
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(
                (status.code(), reason_of(&status)),
                (new_code, Some(reason))
            );
        }
        let ours = Problem::not_yet("x").into_status();
        let kept = with_details(ours.into_http::<Body>());
        let status = Status::from_header_map(kept.headers()).unwrap();
        assert_eq!(status.message(), Problem::not_yet("x").message());
    }
}
