//! The seam to threads and time: openraft's runtime, and a worker for the checkpoint.

use std::future::Future;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use tokio::sync::oneshot;

/// What this room needs of a runtime besides openraft's tasks. Production: [`TokioRuntime`]. The
/// simulator brings one that runs everything on one thread from a seed.
pub trait Runtime: AsyncRuntime {
    /// Runs `step` again and again with pauses of `every`, where blocking on a disk holds up no
    /// task, until the worker is stopped or dropped; `step(true)` is its last run.
    fn worker(name: &str, every: Duration, step: Box<dyn FnMut(bool) + Send>) -> Worker;

    /// Runs a job that blocks on a disk for longer than a task may. An error: the runtime ends.
    /// Where everything is one thread, it runs where it is.
    fn blocking<T: Send + 'static>(
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        std::future::ready(Ok(job()))
    }
}

/// A running worker.
pub struct Worker {
    stop: Arc<Stop>,
    done: oneshot::Receiver<()>,
}

/// Says that a worker shall stop.
#[derive(Default)]
pub struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
    notify: tokio::sync::Notify,
}

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        *self.asked.lock().expect("no panic under this lock") = true;
        self.changed.notify_all();
        self.notify.notify_one();
    }

    /// Whether it was asked.
    pub fn asked(&self) -> bool {
        *self.asked.lock().expect("no panic under this lock")
    }

    /// Until asked; for a worker that is a task.
    pub async fn wait(&self) {
        if !self.asked() {
            self.notify.notified().await;
        }
    }

    fn wait_blocking(&self, at_most: Duration) -> bool {
        let asked = self.asked.lock().expect("no panic under this lock");
        let waited = self
            .changed
            .wait_timeout_while(asked, at_most, |asked| !*asked);
        *waited.expect("no panic under this lock").0
    }
}

impl Worker {
    /// A handle for a worker that runs until `stop` and then completes `done`.
    #[must_use]
    pub fn new(stop: Arc<Stop>, done: oneshot::Receiver<()>) -> Self {
        Self { stop, done }
    }

    /// Asks it to stop.
    pub(crate) fn ask(&self) {
        self.stop.ask();
    }

    /// Waits for its end, however it came.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.done).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ask();
    }
}

impl Runtime for TokioRuntime {
    fn worker(name: &str, every: Duration, mut step: Box<dyn FnMut(bool) + Send>) -> Worker {
        let stop = Arc::new(Stop::default());
        let (done, ended) = oneshot::channel::<()>();
        let asked = stop.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _done = done;
                loop {
                    let last = asked.wait_blocking(every);
                    step(last);
                    if last {
                        return;
                    }
                }
            })
            .expect("the system has a thread for the checkpoint");
        Worker::new(stop, ended)
    }

    async fn blocking<T: Send + 'static>(
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let done = tokio::task::spawn_blocking(job).await;
        done.map_err(io::Error::other)
    }
}
