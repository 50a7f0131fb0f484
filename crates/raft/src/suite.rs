//! openraft's own conformance suite for storage, over ours on a disk in memory.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft_rt_tokio::TokioRuntime;
use ticketrail_core::{NodeId, State};
use ticketrail_storage::sim::SimDisk;
use ticketrail_storage::{Identity, Log, LogConfig};

use crate::applied::{Applied, AppliedEntry, AppliedSink, Replaced, Shared};
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::shelf::Shelf;
use crate::types::{StoredMembership, Types};

struct Deaf;

impl AppliedSink for Deaf {
    fn applied(&self, _: &State, _: AppliedEntry<'_>) {}
    fn replaced(&self, _: &State, _: Replaced) {}
    fn polls(&self) -> bool {
        false
    }
}

struct Builder;

type Built = ((), LogStore<TokioRuntime>, Machine<TokioRuntime>);

impl StoreBuilder<Types<TokioRuntime>, LogStore<TokioRuntime>, Machine<TokioRuntime>> for Builder {
    async fn build(&self) -> Result<Built, StorageError<Types<TokioRuntime>>> {
        let disk = Arc::new(SimDisk::new(1));
        let owner = Identity {
            cluster_id: 1,
            node_id: 1,
        };
        let mut config = LogConfig::new(owner.cluster_id, owner.node_id);
        config.segment_bytes = 8 << 10;
        config.cache_bytes = 0;
        let (log, writer, _) = Log::open(disk.clone(), config).unwrap();
        // Ends when the last handle to the log is dropped.
        std::thread::spawn(move || writer.run());
        let shelf = Arc::new(Shelf::open(disk, owner).unwrap());
        let applied = Applied::new(State::new(), None, StoredMembership::default());
        let shared = Shared::new(
            NodeId(1),
            Arc::new(Default::default),
            Arc::new(Deaf),
            applied,
            None,
        );
        let machine = Machine::new(Arc::new(shared), shelf, log.clone(), Arc::default());
        Ok(((), LogStore::new(log), machine))
    }
}

#[test]
fn storage_keeps_openrafts_contract() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
