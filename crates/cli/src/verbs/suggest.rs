//! Names close to the one that does not exist.

use ticketrail_client::Error;

use super::Context;
use crate::failure::Failure;

/// Adds to a failure about an unknown name which one may have been meant; `may_create`: or how to create it.
pub(super) async fn explained(context: &Context, failure: Failure, may_create: bool) -> Failure {
    let Failure::Cluster { error, .. } = &failure else {
        return failure;
    };
    let hint = match error.reason() {
        "QUEUE_NOT_FOUND" => queue(context, error.metadata("queue"), may_create).await,
        "UNROUTABLE" => queue(context, error.metadata("routing_key"), may_create).await,
        "NAMESPACE_NOT_FOUND" => namespace(context, error, may_create).await,
        "NODE_NOT_FOUND" => members(context).await,
        _ => None,
    };
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

async fn queue(context: &Context, wanted: Option<&str>, may_create: bool) -> Option<String> {
    let wanted = wanted?;
    // A second failure would only hide the first.
    let queues = context.client.list_queues().await.unwrap_or_default();
    let names = queues.iter().map(|queue| queue.name.as_str());
    hint("queue", wanted, names, may_create)
}

async fn namespace(context: &Context, error: &Error, may_create: bool) -> Option<String> {
    let wanted = error.metadata("namespace")?;
    let namespaces = context.client.list_namespaces().await.unwrap_or_default();
    let names = namespaces.iter().map(|one| one.name.as_str());
    hint("namespace", wanted, names, may_create)
}

/// Numbers are not near each other because they look alike: all of them are told.
async fn members(context: &Context) -> Option<String> {
    let cluster = context.client.cluster().await.ok()?;
    let nodes: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| node.node_id.to_string())
        .collect();
    Some(format!("its members are {}", nodes.join(", ")))
}

fn hint<'a>(
    what: &str,
    wanted: &str,
    names: impl Iterator<Item = &'a str>,
    may_create: bool,
) -> Option<String> {
    let create = format!("create it: ticketrail {what} create {}", quoted(wanted));
    match (nearest(wanted, names), may_create) {
        (Some(name), true) => Some(format!("did you mean `{name}`? or {create}")),
        (Some(name), false) => Some(format!("did you mean `{name}`?")),
        (None, true) => Some(create),
        (None, false) => None,
    }
}

/// As the shell wants it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:".contains(c);
    if name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

/// The name that the fewest edits lead to, if these are few for its length.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + wanted.chars().count() / 4;
    names
        .map(|name| (distance(&wanted.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// How many insertions, deletions and replacements lead from one to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        let cases = [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("orders", "oders", 1),
        ];
        for (from, to, expected) in cases {
            assert_eq!(distance(from, to), expected, "{from} {to}");
            assert_eq!(distance(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn finds_the_nearest_and_nothing_far_away() {
        let names = ["orders", "orders.dead", "tasks"];
        assert_eq!(nearest("oders", names.into_iter()), Some("orders"));
        assert_eq!(
            nearest("Orders.Ded", names.into_iter()),
            Some("orders.dead")
        );
        assert_eq!(nearest("invoices", names.into_iter()), None);
    }

    #[test]
    fn nobody_creates_what_was_to_be_removed() {
        let names = || ["orders"].into_iter();
        let create = "did you mean `orders`? or create it: ticketrail queue create oders";
        assert_eq!(
            hint("queue", "oders", names(), true).as_deref(),
            Some(create)
        );
        let only = "did you mean `orders`?";
        assert_eq!(
            hint("queue", "oders", names(), false).as_deref(),
            Some(only)
        );
        assert_eq!(hint("queue", "invoices", names(), false), None);
    }

    #[test]
    fn quotes_for_the_shell() {
        assert_eq!(quoted("a.b/c"), "a.b/c");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }
}
