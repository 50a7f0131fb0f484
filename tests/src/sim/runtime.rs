//! openraft's runtime on one paused clock: tokio's single-threaded scheduler, a random generator and a
//! clock rate per life of a node, and tasks that stand still and die with it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
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

/// One run of a node's process. All its tasks end, wherever they are, when it is killed, and stand
/// still while it is paused.
pub(crate) struct Life {
    dice: Mutex<Dice>,
    dead: AtomicBool,
    paused: AtomicBool,
    panicked: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    enclosed: Mutex<Vec<future::AbortHandle>>,
    /// Tasks that were to go on while it was paused, in their order.
    asleep: Mutex<Vec<Waker>>,
    born: tokio::time::Instant,
    /// How fast its clock goes, in millionths of real time.
    clock_ppm: u64,
}

/// What a job that blocks on a disk takes at most.
const JOB_US_MAX: u64 = 6_000;

/// A clock that is right.
pub(crate) const TRUE_PPM: u64 = 1_000_000;

impl Life {
    pub(crate) fn new(dice: Dice, clock_ppm: u64) -> Arc<Self> {
        Arc::new(Self {
            dice: Mutex::new(dice),
            dead: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            tasks: Mutex::default(),
            enclosed: Mutex::default(),
            asleep: Mutex::default(),
            born: tokio::time::Instant::now(),
            clock_ppm,
        })
    }

    /// Runs a task inside this life; nothing, if it is over.
    pub(crate) fn spawn<T>(self: &Arc<Self>, future: T) -> tokio::task::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let task = tokio::spawn(self.inside(future));
        if self.is_dead() {
            task.abort();
        }
        let mut tasks = self.tasks.lock().expect("no panic under this lock");
        if tasks.len() >= 256 && tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task.abort_handle());
        task
    }

    /// Ties a task that somebody else spawns to this life.
    pub(crate) fn enclose(
        self: &Arc<Self>,
        task: BoxFuture<'static, ()>,
    ) -> BoxFuture<'static, ()> {
        let (task, handle) = future::abortable(self.inside(task));
        if self.is_dead() {
            handle.abort();
        }
        self.enclosed
            .lock()
            .expect("no panic under this lock")
            .push(handle);
        // An error is this life's end.
        Box::pin(task.map(drop))
    }

    fn inside<T: Future>(self: &Arc<Self>, future: T) -> Inside<T> {
        Inside {
            life: self.clone(),
            future: Box::pin(future),
        }
    }

    /// Ends it between two steps of its tasks, as a crash of the process does.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        let tasks = std::mem::take(&mut *self.tasks.lock().expect("no panic under this lock"));
        tasks.iter().for_each(AbortHandle::abort);
        let enclosed =
            std::mem::take(&mut *self.enclosed.lock().expect("no panic under this lock"));
        enclosed.iter().for_each(future::AbortHandle::abort);
        self.asleep
            .lock()
            .expect("no panic under this lock")
            .clear();
    }

    /// Its tasks stand still, as after SIGSTOP.
    pub(crate) fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// They go on.
    pub(crate) fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        let asleep = std::mem::take(&mut *self.asleep.lock().expect("no panic under this lock"));
        asleep.into_iter().for_each(Waker::wake);
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

    /// What this life's clock says.
    fn clock(&self, now: tokio::time::Instant) -> tokio::time::Instant {
        let real = now.saturating_duration_since(self.born).as_micros() as u64;
        self.born + Duration::from_micros(real * self.clock_ppm / TRUE_PPM)
    }

    /// When this life's clock will say so.
    fn real(&self, clock: tokio::time::Instant) -> tokio::time::Instant {
        // Rounded up, or a sleep would end before its deadline, again and again.
        let told = clock.saturating_duration_since(self.born).as_nanos() as u64;
        let told = told.div_ceil(1_000);
        self.born + Duration::from_micros((told * TRUE_PPM).div_ceil(self.clock_ppm))
    }
}

/// What the clock of the life that runs says.
pub(crate) fn clock_now() -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    LIFE.try_with(|life| life.clock(now)).unwrap_or(now)
}

/// When a span of the clock of the life that runs is over.
fn real_after(span: Duration) -> tokio::time::Instant {
    real_of(clock_now() + span)
}

fn real_of(clock: tokio::time::Instant) -> tokio::time::Instant {
    LIFE.try_with(|life| life.real(clock)).unwrap_or(clock)
}

/// A task of a life.
struct Inside<T> {
    life: Arc<Life>,
    future: Pin<Box<T>>,
}

impl<T: Future> Future for Inside<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        let life = self.life.clone();
        if life.paused.load(Ordering::Relaxed) {
            let mut asleep = life.asleep.lock().expect("no panic under this lock");
            asleep.push(context.waker().clone());
            return Poll::Pending;
        }
        let _alarm = Alarm(&life);
        LIFE.sync_scope(life.clone(), || self.future.as_mut().poll(context))
    }
}

/// Notices the panic of a task.
struct Alarm<'a>(&'a Life);

impl Drop for Alarm<'_> {
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
        tokio::time::sleep_until(real_after(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(real_of(deadline.0))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(real_after(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(real_of(deadline.0), future)
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

    /// At once: a second thread would not follow the seed.
    async fn spawn_blocking<F, T>(step: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(step())
    }
}

impl Runtime for SimRuntime {
    /// Takes its time, as a thread of its own would: everybody else goes on meanwhile, and a crash may
    /// come before the job or after it.
    async fn blocking<T: Send + 'static>(
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (before, after) = LIFE.with(|life| {
            life.throw(|dice| (dice.below(JOB_US_MAX / 2), dice.below(JOB_US_MAX / 2)))
        });
        tokio::time::sleep(Duration::from_micros(before)).await;
        let done = job();
        tokio::time::sleep(Duration::from_micros(after)).await;
        Ok(done)
    }

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
