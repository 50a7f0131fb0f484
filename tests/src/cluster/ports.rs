//! Free ports that stay free: outside the range from which the system takes ports for outgoing
//! connections, so that a node finds its port again after a restart.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Mutex;

const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;

/// A port on 127.0.0.1 that nobody listens on and that this process did not hand out before.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free() -> u16 {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut taken = TAKEN.lock().expect("nobody panics while holding the ports");
    let taken = taken.get_or_insert_default();
    for _ in 0..10_000 {
        let port = rand::random_range(FIRST..=LAST);
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
    panic!("no free port in {FIRST}..={LAST}");
}
