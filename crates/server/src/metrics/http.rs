//! The listener: plain HTTP/1.1, few connections, short requests.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Watched;
use super::text;
use crate::limits;
use crate::listen::{Door, accept};
use crate::services::Health;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const INDEX: &str = "Ticketrail.\n\
    /metrics  numbers, for Prometheus\n\
    /healthz  200 while the process works\n\
    /readyz   200 while this node serves clients\n";

/// Serves until `stop`; connections that are open then are cut off.
pub(crate) async fn serve(listener: TcpListener, watched: Arc<Watched>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let door = Door {
        connections_max: limits::SCRAPERS_MAX,
        counts: Arc::clone(&watched.scrapers),
        greeting_wait: limits::SCRAPER_WAIT_MAX,
        connection_bytes_max: 0,
        admission: None,
    };
    let mut accepted = Box::pin(accept(listener, stop.clone(), door));
    loop {
        tokio::select! {
            Some(connection) = accepted.next() => {
                let Ok(connection) = connection else { continue };
                let watched = Arc::clone(&watched);
                let service = service_fn(move |request| answer(Arc::clone(&watched), request));
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits::SCRAPER_WAIT_MAX)
                    .max_buf_size(limits::SCRAPER_BUFFER_BYTES)
                    .serve_connection(TokioIo::new(connection), service);
                connections.spawn(async move {
                    if let Err(error) = served.await {
                        tracing::debug!(%error, "a connection of the metrics listener broke");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn answer(
    watched: Arc<Watched>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "GET it"));
    }
    Ok(match request.uri().path() {
        "/metrics" => metrics(watched).await,
        "/healthz" => healthz(&watched),
        "/readyz" => readyz(&watched),
        "/" => plain(StatusCode::OK, INDEX),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there is /metrics, /healthz and /readyz\n",
        ),
    })
}

async fn metrics(watched: Arc<Watched>) -> Response<Body> {
    let (pieces, mut written) = mpsc::channel(limits::SCRAPE_PIECES_MAX);
    tokio::spawn(async move { watched.scrape(pieces).await });
    // The first piece comes when everything is gathered: one that waits too long is told so.
    let Ok(Some(first)) = timeout(limits::SCRAPE_WAIT_MAX, written.recv()).await else {
        return plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "another scrape takes too long\n",
        );
    };
    let rest = ReceiverStream::new(written);
    let pieces = futures::stream::once(async move { first }).chain(rest);
    let frames = pieces.map(|piece| Ok(Frame::data(piece)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = HeaderValue::from_static(text::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The process works, whatever the cluster does: starting it again would not help.
fn healthz(watched: &Watched) -> Response<Body> {
    let failure = watched.node.broker.replica().failure().borrow().clone();
    match failure {
        None => plain(StatusCode::OK, "ok\n"),
        Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("failed: {why}\n")),
    }
}

/// Clients are served here.
fn readyz(watched: &Watched) -> Response<Body> {
    let node = &watched.node;
    let status = node.broker.replica().status();
    match Health::of(&status, node.stopping.is_refusing()).why_not_ready {
        None => plain(StatusCode::OK, "ready\n"),
        Some(why) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        ),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
