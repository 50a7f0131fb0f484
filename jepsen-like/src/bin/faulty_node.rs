//! One node on a machine that fails: the server as it is shipped, on a disk that loses at a kill what
//! was not synced. The folder that `TICKETRAIL_FAULTS` names is looked into at each step:
//!
//! * a file `fsync-fails` in it: every sync of a file or folder fails with EIO;
//! * a file `fsync-hangs`: every sync waits until the file is gone;
//! * a file `fsync-lies`: a sync of a file says that it was done and does nothing, a planted bug;
//! * a file `wall-clock-offset-ms`: the wall clock is off by so much, forwards or (`-`) backwards.
//!
//! A file `diverges-at` that is there at the start names an entry of the log that this node applies otherwise
//! than the others: a state that goes wrong in memory.
//!
//! For tests only, and no part of what is installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs, io, thread};

use anyhow::{Context as _, bail};
use ticketrail_server::{Listeners, Machine, WrittenConfig, run_with};
use ticketrail_storage::disk::PowerCutDisk;
use ticketrail_storage::{Disk, DiskFile, disk::DiskLock};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How often a sync that hangs looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Ends as the shipped program does, with a sentence and not with a backtrace, which takes a second to write.
fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve() -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    let config = WrittenConfig::read(&config_path()?)?.validate()?;
    let faults = env::var_os("TICKETRAIL_FAULTS").context("TICKETRAIL_FAULTS names a folder")?;
    let faults = Faults::from(faults);
    let listeners = Listeners::bind(&config).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        // The end of the stream of signals is an end, too.
        let _ = terminate.recv().await;
    };
    run_with(config, listeners, faults.machine(), stop).await?;
    Ok(())
}

fn config_path() -> anyhow::Result<PathBuf> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match &arguments[..] {
        [flag, path] if flag == "--config" => Ok(path.into()),
        _ => bail!("usage: faulty-node --config FILE"),
    }
}

/// The folder whose files are the faults that hold now.
#[derive(Clone)]
struct Faults(Arc<Path>);

impl From<OsString> for Faults {
    fn from(path: OsString) -> Self {
        Self(PathBuf::from(path).into())
    }
}

impl Faults {
    fn machine(self) -> Machine {
        let clock = self.clone();
        let planted_divergence = self.number("diverges-at");
        Machine {
            disk_of: Arc::new(move |folder| {
                let disk = PowerCutDisk::new(folder)?;
                Ok(Arc::new(FaultyDisk {
                    disk,
                    faults: self.clone(),
                }))
            }),
            wall_clock: Arc::new(move || clock.wall_ms()),
            planted_divergence,
        }
    }

    fn check_sync(&self) -> io::Result<()> {
        const EIO: i32 = 5;
        while self.0.join("fsync-hangs").exists() {
            thread::sleep(LOOK_EVERY);
        }
        if self.0.join("fsync-fails").exists() {
            Err(io::Error::from_raw_os_error(EIO))
        } else {
            Ok(())
        }
    }

    fn wall_ms(&self) -> u64 {
        let real = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let real = u64::try_from(real.as_millis()).unwrap_or(u64::MAX);
        real.saturating_add_signed(self.number("wall-clock-offset-ms").unwrap_or(0))
    }

    fn number<T: FromStr>(&self, fault: &str) -> Option<T> {
        let text = fs::read_to_string(self.0.join(fault)).ok()?;
        text.trim().parse().ok()
    }
}

/// A disk that forgets what was not synced, and whose syncs fail on demand.
struct FaultyDisk {
    disk: PowerCutDisk,
    faults: Faults,
}

struct FaultyFile {
    file: Arc<dyn DiskFile>,
    faults: Faults,
}

impl FaultyDisk {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile {
            file,
            faults: self.faults.clone(),
        })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name).map(|file| self.wrap(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name).map(|file| self.wrap(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.faults.check_sync()?;
        self.disk.sync_dir()
    }

    fn lock(&self) -> io::Result<DiskLock> {
        self.disk.lock()
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.check_sync()?;
        if self.faults.0.join("fsync-lies").exists() {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
