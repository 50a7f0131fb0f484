//! What a stretch of time cost.

use std::time::Instant;

use crate::process_tree;
use crate::results::Figures;
use crate::servers::Servers;

const MIB: f64 = 1_048_576.0;

/// The beginning of a measurement.
pub(super) struct Begun {
    at: Instant,
    messages: u64,
    server_cpu_us: f64,
    own_cpu_us: f64,
    machine_cpu_us: f64,
}

impl Begun {
    /// With so many messages counted so far.
    pub(super) fn now(servers: &Servers, messages: u64) -> Self {
        Self {
            server_cpu_us: process_tree::cpu_us_of(&servers.pids()),
            own_cpu_us: process_tree::own_cpu_us(),
            machine_cpu_us: process_tree::machine_cpu_us(),
            messages,
            at: Instant::now(),
        }
    }

    /// The figures from then to now, with so many messages counted by now.
    pub(super) fn end(&self, servers: &Servers, messages: u64, body_bytes: usize) -> Figures {
        let seconds = self.at.elapsed().as_secs_f64();
        let server = process_tree::cpu_us_of(&servers.pids()) - self.server_cpu_us;
        let own = process_tree::own_cpu_us() - self.own_cpu_us;
        let machine = process_tree::machine_cpu_us() - self.machine_cpu_us;
        let messages = messages - self.messages;
        let each = messages.max(1) as f64;
        let mut figures = Figures {
            seconds,
            messages,
            server_cpu_us_per_message: Some(server / each),
            server_cores: Some(server / 1e6 / seconds),
            client_cpu_us_per_message: Some(own / each),
            other_cores: Some((machine - server - own) / 1e6 / seconds),
            resident_mib: process_tree::resident_bytes_of(&servers.pids())
                .iter()
                .map(|bytes| *bytes as f64 / MIB)
                .collect(),
            ..Figures::default()
        };
        figures.set_rate(messages as f64 / seconds, body_bytes);
        figures
    }
}

impl Figures {
    pub(super) fn set_rate(&mut self, messages_per_second: f64, body_bytes: usize) {
        self.messages_per_second = Some(messages_per_second);
        self.megabytes_per_second = Some(messages_per_second * body_bytes as f64 / 1e6);
    }
}
