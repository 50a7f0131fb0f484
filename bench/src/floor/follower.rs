use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use anyhow::Result;

use super::store::Store;

/// Writes what the leader sends, and says so.
pub(super) fn serve(listen: SocketAddr, mut store: Store) -> Result<()> {
    let (mut leader, _) = TcpListener::bind(listen)?.accept()?;
    leader.set_nodelay(true)?;
    let (mut length, mut batch) = ([0; 4], Vec::new());
    loop {
        leader.read_exact(&mut length)?;
        batch.resize(u32::from_le_bytes(length) as usize, 0);
        leader.read_exact(&mut batch)?;
        store.append(&batch)?;
        leader.write_all(&[1])?;
    }
}
