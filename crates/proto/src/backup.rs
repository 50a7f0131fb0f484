//! The checks of a copy's frames, on both ends of `ClusterService.Backup`.

use bytes::Bytes;

use crate::v1;

impl v1::BackupState {
    /// Bytes with their check.
    #[must_use]
    pub fn of(data: Bytes) -> Self {
        let crc32c = crc32c::crc32c(&data);
        Self { data, crc32c }
    }

    /// Whether the bytes are those that were sent.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.crc32c == crc32c::crc32c(&self.data)
    }
}

impl v1::BackupBodies {
    /// Bodies with their check.
    #[must_use]
    pub fn of(bodies: Vec<v1::BackupBody>) -> Self {
        let crc32c = crc_of(&bodies);
        Self { bodies, crc32c }
    }

    /// Whether the bodies are those that were sent.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.crc32c == crc_of(&self.bodies)
    }
}

fn crc_of(bodies: &[v1::BackupBody]) -> u32 {
    bodies.iter().fold(0, |crc, body| {
        let crc = crc32c::crc32c_append(crc, &body.index.to_le_bytes());
        crc32c::crc32c_append(crc, &body.payload)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_changed_on_its_way_is_not_intact() {
        let mut state = v1::BackupState::of(Bytes::from_static(b"rows"));
        assert!(state.is_intact());
        state.data = Bytes::from_static(b"rowt");
        assert!(!state.is_intact());
        let payload = Bytes::from_static(b"body");
        let mut bodies = v1::BackupBodies::of(vec![v1::BackupBody { index: 7, payload }]);
        assert!(bodies.is_intact());
        bodies.bodies[0].index = 8;
        assert!(!bodies.is_intact());
    }
}
