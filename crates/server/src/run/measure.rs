//! Measures memory and disk: for the broker, which decides what they are enough for, and for those who
//! watch.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use ticketrail_storage::{DiskSpace, disk_space};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::data_folder::DataFolder;
use crate::limits;
use crate::machine;
use crate::node::SharedNode;

/// What was found.
struct Measured {
    resident_bytes: u64,
    space: DiskSpace,
    /// Where it was wanted: it takes a system call for each file.
    data: Option<DataFolder>,
}

/// Measures until `stop`.
pub(super) async fn measure(node: SharedNode, data_dir: PathBuf, stop: CancellationToken) {
    let mut look = tokio::time::interval(limits::MEASURE_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Said once for each time that it begins.
    let mut unknown = false;
    let mut looked_at: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let folder = data_dir.clone();
        let wanted = looked_at.is_none_or(|at| at.elapsed() >= limits::DATA_FOLDER_LOOK_EVERY);
        // A disk that hangs must not hang anything else.
        let measured = tokio::task::spawn_blocking(move || measured(&folder, wanted)).await;
        let measured = measured.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        match measured {
            Ok(measured) => {
                unknown = false;
                if wanted {
                    looked_at = Some(Instant::now());
                }
                tell(&node, measured);
            }
            Err(error) if !unknown => {
                unknown = true;
                tracing::warn!(%error, "memory and disk cannot be measured");
            }
            Err(_) => {}
        }
    }
}

fn measured(folder: &Path, wanted: bool) -> std::io::Result<Measured> {
    Ok(Measured {
        resident_bytes: machine::resident_bytes()?,
        space: disk_space(folder)?,
        data: match wanted {
            true => Some(DataFolder::look(folder)?),
            false => None,
        },
    })
}

fn tell(node: &SharedNode, measured: Measured) {
    let (admission, replica) = (node.broker.admission(), node.broker.replica());
    admission.memory_measured(measured.resident_bytes);
    let DiskSpace {
        free_bytes,
        total_bytes,
    } = measured.space;
    let short = admission.disk_measured(free_bytes + replica.spare_log_bytes(), total_bytes);
    replica.disk_measured(free_bytes, short);
    if measured.data.is_some() {
        *node.data.lock().unwrap_or_else(PoisonError::into_inner) = measured.data;
    }
}
