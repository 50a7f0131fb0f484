//! `ticketrail namespace ...`

use serde_json::json;

use super::Context;
use crate::args::Namespace;
use crate::failure::Result;
use crate::show::{self, time};

pub(super) async fn run(context: &Context, verb: Namespace) -> Result {
    match verb {
        Namespace::Create { name } => create(context, name).await,
        Namespace::List => list(context).await,
        Namespace::Delete { name } => delete(context, name).await,
    }
}

async fn create(context: &Context, name: String) -> Result {
    let response = context.client.create_namespace(&name).await?;
    let sentence = match response.already_existed {
        true => format!("namespace `{name}` exists already"),
        false => format!("namespace `{name}` created"),
    };
    let object = json!({ "namespace": name, "already_existed": response.already_existed });
    Ok(context.show.done(&sentence, &object)?)
}

async fn list(context: &Context) -> Result {
    let namespaces = context.client.list_namespaces().await?;
    let mut table = show::table(&["NAME", "CREATED"]);
    for namespace in namespaces {
        let created = time(namespace.created_at.as_ref());
        if context.show.is_json() {
            context
                .show
                .json(&json!({ "name": namespace.name, "created_at": created }))?;
        } else {
            table.add_row([namespace.name, created.unwrap_or_default()]);
        }
    }
    if !context.show.is_json() {
        context.show.line(&show::lines(&table))?;
    }
    Ok(())
}

async fn delete(context: &Context, name: String) -> Result {
    context.client.delete_namespace(&name).await?;
    let object = json!({ "namespace": name, "deleted": true });
    Ok(context
        .show
        .done(&format!("namespace `{name}` deleted"), &object)?)
}
