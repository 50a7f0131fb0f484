//! Names close to the one that does not exist.

use ticketrail_client::Error;

use super::Context;
use crate::failure::Failure;

/// Adds to an error about an unknown queue which one may have been meant, or how to create it.
pub(super) async fn for_queue(context: &Context, queue: &str, error: Error) -> Failure {
    match error.reason() {
        "QUEUE_NOT_FOUND" | "UNROUTABLE" => {}
        "NAMESPACE_NOT_FOUND" => return for_namespace(context, error).await,
        _ => return error.into(),
    }
    let quoted = quoted(queue);
    let create = format!("create it: ticketrail queue create {quoted}");
    let failure = Failure::from(error);
    // A second failure would only hide the first.
    let Ok(queues) = context.client.list_queues().await else {
        return failure.hint(create);
    };
    let names = queues.iter().map(|queue| queue.name.as_str());
    match nearest(queue, names) {
        Some(name) => failure.hint(format!("did you mean `{name}`? or {create}")),
        None => failure.hint(create),
    }
}

/// Adds to an error about an unknown namespace which one may have been meant, or how to create it.
pub(super) async fn for_namespace(context: &Context, error: Error) -> Failure {
    if error.reason() != "NAMESPACE_NOT_FOUND" {
        return error.into();
    }
    let namespace = context.client.namespace();
    let create = format!(
        "create it: ticketrail namespace create {}",
        quoted(namespace)
    );
    let failure = Failure::from(error);
    let Ok(namespaces) = context.client.list_namespaces().await else {
        return failure.hint(create);
    };
    let names = namespaces.iter().map(|one| one.name.as_str());
    match nearest(namespace, names) {
        Some(name) => failure.hint(format!("did you mean `{name}`? or {create}")),
        None => failure.hint(create),
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
    fn quotes_for_the_shell() {
        assert_eq!(quoted("a.b/c"), "a.b/c");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }
}
