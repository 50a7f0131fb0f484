//! openraft's runtime on one paused clock: tokio's single-threaded scheduler, a random generator per
//! life of a node, and tasks that die with it.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ticketrail_raft::{Runtime, Stop, Worker};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::dice::Dice;
use super::instant::SimInstant;
use super::watch::SimWatch;

tokio::task_local! {
    static LIFE: Arc<Life>;
}

/// One run of a node's process. All its tasks end, wherever they are, when it is killed.
pub(crate) struct Life {
    dice: Mutex<Dice>,
    dead: AtomicBool,
    panicked: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Life {
    pub(crate) fn new(dice: Dice) -> Arc<Self> {
        Arc::new(Self {
            dice: Mutex::new(dice),
            dead: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            tasks: Mutex::default(),
        })
    }

    /// Runs a task inside this life; nothing, if it is over.
    pub(crate) fn spawn<T>(self: &Arc<Self>, future: T) -> tokio::task::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let alarm = Alarm(self.clone());
        let alarmed = async move {
            let _alarm = alarm;
            future.await
        };
        let task = tokio::spawn(LIFE.scope(self.clone(), alarmed));
        if self.dead.load(Ordering::Relaxed) {
            task.abort();
        }
        let mut tasks = self.tasks.lock().expect("no panic under this lock");
        if tasks.len() >= 256 && tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task.abort_handle());
        task
    }

    /// Ends it between two steps of its tasks, as a crash of the process does.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        for task in self
            .tasks
            .lock()
            .expect("no panic under this lock")
            .drain(..)
        {
            task.abort();
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Whether a task panicked: nothing may, whatever happens to disk and network.
    pub(crate) fn panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    /// A number of this life's own dice.
    pub(crate) fn throw<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.dice.lock().expect("no panic under this lock"))
    }
}

/// Notices the panic of a task.
struct Alarm(Arc<Life>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
    }
}

/// The simulator's runtime. Everything that openraft or `raft` spawns belongs to the life whose task
/// spawned it.
#[derive(Debug)]
pub(crate) struct SimRuntime;

impl AsyncRuntime for SimRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = SimInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = StdRng;
    type Mpsc = TokioMpsc;
    type Watch = SimWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        LIFE.with(|life| life.clone()).spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline.0, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> StdRng {
        StdRng::seed_from_u64(LIFE.with(|life| life.throw(Dice::next)))
    }

    fn new(_: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, _: F) -> T
    where
        F: Future<Output = T>,
    {
        unreachable!("the simulation has one runtime of its own")
    }

    async fn spawn_blocking<F, T>(_: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        unreachable!("a second thread would not follow the seed")
    }
}

impl Runtime for SimRuntime {
    fn worker(_: &str, every: Duration, mut step: Box<dyn FnMut(bool) + Send>) -> Worker {
        let stop = Arc::new(Stop::default());
        let (done, ended) = oneshot::channel::<()>();
        let asked = stop.clone();
        drop(Self::spawn(async move {
            let _done = done;
            loop {
                // An error is the end of the pause.
                let _ = tokio::time::timeout(every, asked.wait()).await;
                step(asked.asked());
                if asked.asked() {
                    return;
                }
            }
        }));
        Worker::new(stop, ended)
    }
}
