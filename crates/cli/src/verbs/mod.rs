//! One file per noun or verb. Each takes its arguments and a [`Context`], and prints what it did.

mod backup;
mod bench;
mod cluster;
mod completions;
mod consume;
mod health;
mod man;
mod namespace;
mod publish;
mod queue;
mod receive;
mod suggest;
mod top;

use ticketrail_client::{Client, ClientOptions};

use crate::args::{Arguments, Global, Namespace, Queue, Verb};
use crate::failure::{Effect, Result};
use crate::show::Show;
use crate::{dev, serve};

/// What every verb that talks to a cluster has at hand.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) show: Show,
    pub(crate) global: Global,
}

impl Context {
    fn new(global: Global) -> Result<Self> {
        let options = ClientOptions::new()
            .namespace(global.namespace.clone())
            .timeout(global.timeout);
        let client = options.connect_lazy([&global.endpoints])?;
        Ok(Self {
            client,
            show: Show::new(global.output),
            global,
        })
    }
}

/// Does what the command line says.
pub(crate) async fn run(arguments: Arguments) -> Result {
    let (repeatable, may_create) = (is_repeatable(&arguments.verb), !removes(&arguments.verb));
    let global = arguments.global.clone();
    let Err(failure) = dispatch(arguments).await else {
        return Ok(());
    };
    let failure = match Context::new(global) {
        Ok(context) => suggest::explained(&context, failure, may_create).await,
        Err(_) => failure,
    };
    Err(match repeatable {
        true => failure.with_effect(Effect::Repeatable),
        false => failure,
    })
}

/// What is not there need not be created for it.
fn removes(verb: &Verb) -> bool {
    let of_queue = matches!(
        verb,
        Verb::Queue(Queue::Delete { .. } | Queue::Purge { .. })
    );
    of_queue || matches!(verb, Verb::Namespace(Namespace::Delete { .. }))
}

/// Doing it twice is doing it once.
fn is_repeatable(verb: &Verb) -> bool {
    match verb {
        Verb::Settle(_) | Verb::Cluster(_) => true,
        Verb::Queue(verb) => !matches!(verb, Queue::Delete { .. } | Queue::Purge { .. }),
        Verb::Namespace(verb) => !matches!(verb, Namespace::Delete { .. }),
        _ => false,
    }
}

async fn dispatch(arguments: Arguments) -> Result {
    let context = || Context::new(arguments.global.clone());
    match arguments.verb {
        Verb::Serve(args) => serve::run(args).await,
        Verb::Dev(args) => dev::run(args).await,
        Verb::Completions { shell } => completions::run(shell),
        Verb::Publish(args) => publish::run(&context()?, args).await,
        Verb::Receive(args) => receive::receive(&context()?, args).await,
        Verb::Settle(args) => receive::settle(&context()?, args).await,
        Verb::Consume(args) => consume::run(&context()?, args).await,
        Verb::Queue(verb) => queue::run(&context()?, verb).await,
        Verb::Namespace(verb) => namespace::run(&context()?, verb).await,
        Verb::Cluster(verb) => cluster::run(&context()?, verb).await,
        Verb::Health(args) => health::run(&context()?, args).await,
        Verb::Backup(args) => backup::run(&context()?, args).await,
        Verb::Bench(verb) => bench::run(&context()?, verb).await,
        Verb::Top(args) => top::run(&context()?, args).await,
        Verb::Man { folder } => man::run(&folder),
        Verb::Restore(args) => backup::restore(Show::new(arguments.global.output), args).await,
    }
}
