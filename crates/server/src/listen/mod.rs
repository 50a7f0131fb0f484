//! The listeners: accepting connections, what every call of a client passes through, and the bounds
//! that keep a silent or hostile peer from holding anything for long.

mod call;
mod counted;
mod guarded;

pub(crate) use call::{CallLayer, Deadline, frame_problem};
pub(crate) use counted::{MessageShare, MessageShares};
pub(crate) use guarded::{Door, accept};

use tonic::transport::Server;

use crate::limits;

/// A gRPC server for clients, with our windows, pings and bounds.
pub(crate) fn client_server() -> Server {
    server(limits::STREAM_WINDOW_BYTES, limits::CONNECTION_WINDOW_BYTES)
}

/// The same for peers.
pub(crate) fn peer_server() -> Server {
    server(
        limits::PEER_STREAM_WINDOW_BYTES,
        limits::PEER_CONNECTION_WINDOW_BYTES,
    )
}

fn server(stream_window_bytes: u32, connection_window_bytes: u32) -> Server {
    Server::builder()
        .initial_stream_window_size(stream_window_bytes)
        .initial_connection_window_size(connection_window_bytes)
        .max_concurrent_streams(limits::CONNECTION_STREAMS_MAX)
        .http2_max_header_list_size(limits::METADATA_BYTES_MAX)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
}
