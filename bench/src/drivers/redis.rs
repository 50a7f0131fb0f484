//! Redis Streams by the `redis` crate: pipelines of XADD, and a consumer group whose acknowledgements go
//! with the next XREADGROUP.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value, cmd, pipe};

use super::{Broker, Confirm, Publisher, RECEIVED_MAX, Subscriber};

/// How long one XREADGROUP waits.
const BLOCK_MS: u64 = 1_000;
/// How long WAIT waits.
const WAIT_MS: u64 = 15_000;
/// A stream keeps what was acknowledged until somebody trims it.
const TRIM_EVERY: Duration = Duration::from_secs(1);
const GROUP: &str = "workers";
const FIELD: &str = "b";

/// A primary, confirmed when it says so.
pub(crate) struct Redis(Primary);

/// A primary, confirmed when one of its replicas has it too.
pub(crate) struct RedisWait(Primary);

struct Primary {
    client: Client,
    connection: MultiplexedConnection,
}

impl Primary {
    async fn connect(endpoints: &[String]) -> Result<Self> {
        let client = Client::open(format!("redis://{}", endpoints[0]))?;
        let connection = open(&client).await?;
        Ok(Self { client, connection })
    }

    async fn create_queue(&self, queue: &str) -> Result<()> {
        let mut create = cmd("XGROUP");
        create
            .arg("CREATE")
            .arg(queue)
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM");
        Ok(create.query_async(&mut self.connection.clone()).await?)
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        Ok(cmd("UNLINK")
            .arg(queue)
            .exec_async(&mut self.connection.clone())
            .await?)
    }

    /// With a connection of its own: WAIT holds up what comes behind it.
    async fn publisher(&self, queue: &str, replicas: Option<u32>) -> Result<RedisPublisher> {
        Ok(RedisPublisher {
            connection: open(&self.client).await?,
            queue: queue.to_owned(),
            replicas,
        })
    }

    async fn subscriber(
        &self,
        queue: &str,
        place: usize,
        prefetch: u16,
    ) -> Result<RedisSubscriber> {
        Ok(RedisSubscriber {
            connection: open(&self.client).await?,
            queue: queue.to_owned(),
            name: format!("worker-{place}"),
            count: RECEIVED_MAX.min(prefetch.into()),
            held: Vec::new(),
            acknowledged: Vec::new(),
            // One of them trims for all.
            trim_at: (place == 0).then(|| Instant::now() + TRIM_EVERY),
        })
    }
}

async fn open(client: &Client) -> Result<MultiplexedConnection> {
    // Reads and WAIT take as long as they take.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

macro_rules! broker {
    ($name:ident, $replicas:expr) => {
        impl Broker for $name {
            type Publisher = RedisPublisher;
            type Subscriber = RedisSubscriber;

            async fn connect(endpoints: &[String]) -> Result<Self> {
                Ok(Self(Primary::connect(endpoints).await?))
            }

            async fn create_queue(&self, queue: &str) -> Result<()> {
                self.0.create_queue(queue).await
            }

            async fn delete_queue(&self, queue: &str) -> Result<()> {
                self.0.delete_queue(queue).await
            }

            async fn leader(&self, _: &str) -> Result<usize> {
                Ok(0)
            }

            async fn publisher(&self, queue: &str, _: usize) -> Result<RedisPublisher> {
                self.0.publisher(queue, $replicas).await
            }

            async fn subscriber(
                &self,
                queue: &str,
                place: usize,
                prefetch: u16,
            ) -> Result<RedisSubscriber> {
                self.0.subscriber(queue, place, prefetch).await
            }
        }
    };
}

broker!(Redis, None);
broker!(RedisWait, Some(1));

pub(crate) struct RedisPublisher {
    connection: MultiplexedConnection,
    queue: String,
    /// Those that must have it before it counts as confirmed.
    replicas: Option<u32>,
}

impl Publisher for RedisPublisher {
    async fn publish(&mut self, bodies: Vec<Bytes>) -> Result<Confirm> {
        let mut pipeline = pipe();
        for body in &bodies {
            pipeline
                .cmd("XADD")
                .arg(&self.queue)
                .arg("*")
                .arg(FIELD)
                .arg(&body[..])
                .ignore();
        }
        if let Some(replicas) = self.replicas {
            pipeline.cmd("WAIT").arg(replicas).arg(WAIT_MS);
        }
        let replicas = self.replicas;
        let mut connection = self.connection.clone();
        // Polled once here: nothing is sent before, and the order is that of the first polls.
        let mut sent = Box::pin(async move {
            let answers: Vec<u32> = pipeline.query_async(&mut connection).await?;
            if let Some(wanted) = replicas {
                let got = answers.first().copied().unwrap_or(0);
                ensure!(got >= wanted, "{got} replicas answered");
            }
            Ok(())
        });
        match futures::poll!(&mut sent) {
            std::task::Poll::Ready(done) => Ok(Box::pin(std::future::ready(done))),
            std::task::Poll::Pending => Ok(sent),
        }
    }
}

pub(crate) struct RedisSubscriber {
    connection: MultiplexedConnection,
    queue: String,
    name: String,
    count: usize,
    /// Ids of what was given.
    held: Vec<Vec<u8>>,
    /// Ids of what is to be acknowledged.
    acknowledged: Vec<Vec<u8>>,
    trim_at: Option<Instant>,
}

impl RedisSubscriber {
    /// One call: acknowledges, then reads.
    async fn read(&mut self) -> Result<Vec<Bytes>> {
        let mut pipeline = pipe();
        if !self.acknowledged.is_empty() {
            pipeline
                .cmd("XACK")
                .arg(&self.queue)
                .arg(GROUP)
                .arg(&self.acknowledged)
                .ignore();
        }
        pipeline
            .cmd("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.name)
            .arg("COUNT")
            .arg(self.count)
            .arg("BLOCK")
            .arg(BLOCK_MS)
            .arg("STREAMS")
            .arg(&self.queue)
            .arg(">");
        let (answer,): (Value,) = pipeline.query_async(&mut self.connection).await?;
        self.acknowledged.clear();
        let mut bodies = Vec::new();
        for (id, body) in entries(answer)? {
            self.held.push(id);
            bodies.push(body);
        }
        Ok(bodies)
    }

    /// Removes what lies before the oldest unacknowledged entry.
    async fn trim(&mut self) -> Result<()> {
        let pending: (u64, Option<String>, Value, Value) = cmd("XPENDING")
            .arg(&self.queue)
            .arg(GROUP)
            .query_async(&mut self.connection)
            .await?;
        if let Some(oldest) = pending.1 {
            cmd("XTRIM")
                .arg(&self.queue)
                .arg("MINID")
                .arg("~")
                .arg(oldest)
                .exec_async(&mut self.connection)
                .await?;
        }
        Ok(())
    }
}

impl Subscriber for RedisSubscriber {
    async fn receive(&mut self) -> Result<Vec<Bytes>> {
        if self.trim_at.is_some_and(|at| Instant::now() >= at) {
            self.trim().await?;
            self.trim_at = Some(Instant::now() + TRIM_EVERY);
        }
        loop {
            let bodies = self.read().await?;
            if !bodies.is_empty() {
                return Ok(bodies);
            }
        }
    }

    async fn acknowledge(&mut self) -> Result<()> {
        self.acknowledged.append(&mut self.held);
        Ok(())
    }

    async fn close(mut self) -> Result<()> {
        if !self.acknowledged.is_empty() {
            cmd("XACK")
                .arg(&self.queue)
                .arg(GROUP)
                .arg(&self.acknowledged)
                .exec_async(&mut self.connection)
                .await?;
        }
        Ok(())
    }
}

/// The ids and bodies of an answer to XREADGROUP for one stream; none if the time was over.
fn entries(answer: Value) -> Result<Vec<(Vec<u8>, Bytes)>> {
    if answer == Value::Nil {
        return Ok(Vec::new());
    }
    let [stream] = array(answer)?;
    let [_name, entries] = array(stream)?;
    let Value::Array(entries) = entries else {
        bail!("entries are no list");
    };
    entries.into_iter().map(entry).collect()
}

fn entry(entry: Value) -> Result<(Vec<u8>, Bytes)> {
    let [id, fields] = array(entry)?;
    let [_field, body] = array(fields)?;
    match (id, body) {
        (Value::BulkString(id), Value::BulkString(body)) => Ok((id, body.into())),
        other => bail!("not an entry: {other:?}"),
    }
}

fn array<const N: usize>(value: Value) -> Result<[Value; N]> {
    let Value::Array(values) = value else {
        bail!("not a list: {value:?}");
    };
    values.try_into().ok().context("a list of another length")
}
