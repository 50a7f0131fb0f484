//! What this disk takes for a small durable write.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::latencies::{Latencies, Quantiles};

const ROUNDS: usize = 1_000;
const BYTES: usize = 4_096;

/// Appends 4 KiB and syncs, again and again.
pub(crate) fn measure(folder: &Path) -> Result<Quantiles> {
    let path = folder.join("fsync-cost");
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    let block = [7; BYTES];
    let mut latencies = Latencies::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.record(begun.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(latencies.quantiles())
}
