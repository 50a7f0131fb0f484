//! `ticketrail health`: asks every endpoint how it is.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use ticketrail_client::{ClientOptions, HealthOf};

use super::Context;
use crate::args::Health;
use crate::failure::{Failure, Result};

/// How long one node may take: who checks health wants to know soon.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, args: Health) -> Result {
    let (of, well) = match args.live {
        true => (HealthOf::Liveness, "alive"),
        false => (HealthOf::Readiness, "ready"),
    };
    let timeout = context.global.timeout.min(NODE_TIMEOUT);
    let endpoints = context.client.endpoints();
    let answers = join_all(endpoints.map(async |endpoint| {
        let options = ClientOptions::new().timeout(timeout);
        let answer = async { options.connect_lazy([endpoint])?.health(of).await };
        (endpoint, answer.await)
    }));
    let mut unwell = Vec::new();
    for (endpoint, answer) in answers.await {
        let state = match &answer {
            Ok(true) => well.to_owned(),
            Ok(false) => format!("not {well}"),
            Err(error) => format!("down: {}", error.message()),
        };
        let is_well = matches!(answer, Ok(true));
        let object = json!({ "endpoint": endpoint, well: is_well, "state": state });
        context
            .show
            .done(&format!("{endpoint} is {state}"), &object)?;
        if !is_well {
            unwell.push(endpoint);
        }
    }
    match unwell.as_slice() {
        [] => Ok(()),
        some => Err(Failure::Unwell(format!(
            "not {well}: {}; see `ticketrail cluster status`, and the log of the node",
            some.join(", ")
        ))),
    }
}
