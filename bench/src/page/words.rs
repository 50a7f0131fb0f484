//! What the page says around its tables.

pub(super) const TITLE: &str = "\
# Beside other brokers

One machine, the same load, the same program for all: [README.md](README.md) tells how to run it again. This page is
made from `results.json` by that program; nothing in it is written by hand.

";

pub(super) const SHORT: &str = "\
Medians; in brackets the ratio to Ticketrail; the best in bold, whatever it promises. **Of these, RabbitMQ and NATS with
`sync always` promise what Ticketrail does: a majority has a confirmed message on its disks.** What each does is
[counted](#fsyncs-as-strace-counts-them), not believed.
";

pub(super) const FAIR: &str = "\
A ratio above 1 is more: good for messages/s, bad for CPU, time and memory.
";

pub(super) const CLIENTS: &str = "\
Clients are the Rust libraries of each system's users, in one process on the same machine, with what their manuals
recommend: connections spread over all nodes (RabbitMQ: to the node that leads the queue, which was faster; Ticketrail's
producers go to the leader by themselves), publisher confirms that are awaited later, many messages under way; RabbitMQ
acknowledges with `multiple`, NATS pulls in batches from one durable consumer, Redis gets pipelines of XADD and of XACK with
XREADGROUP (WAIT stands behind each batch; larger ones were no faster), and its stream is trimmed once a second to the oldest unacknowledged entry. Ticketrail's producer is idempotent:
what it sends again is stored once. Bodies are noise, so compression gains nothing.
";

pub(super) const NOT_COMPARABLE: &str = "\
## What is not comparable, and why

- **One machine.** All nodes and the load share its cores and its disk: a node's fsync waits for those of its peers, and no
  network is in between. So this compares what the systems cost; it does not tell how fast three machines are.
- **Confirms.** Ticketrail and RabbitMQ confirm after fsyncs of a majority, NATS only with `sync_interval: always`. NATS by
  default trusts that not all nodes lose power together. Redis has no majority: `WAIT` is not part of a decision, and a
  failover may lose what it confirmed.
- **Acknowledgements.** In Ticketrail, RabbitMQ and NATS they are replicated like messages; here no client waits for
  that (RabbitMQ and NATS would need another call for it). Redis answers each, and keeps acknowledged entries until they are
  trimmed.
- **Delivery before the confirm.** Redis hands a message to a consumer when it is on the primary's disk, before a replica
  has it; the others deliver what a majority has.
- **1,000 messages a second** one by one are near the most that a system which syncs for each of them can do on a slow
  disk: there the table of the paced load shows a queue, not a way.
- **Duplicates.** Ticketrail's publishers are idempotent; those of the others are not, as each is by default.
- **Memory.** Redis holds all messages in memory by design. The page cache, which NATS, RabbitMQ and Ticketrail use, is
  not counted for any.
- **Redis in the failover test.** One node, or a primary with replicas but without Sentinel: nobody takes over by itself.
- **Versions.** RabbitMQ and Redis are those of the Debian release that this ran on, not their newest.
- **Short runs.** Seconds, not days: compaction and long backlogs are hardly in it.
";
