use bytes::Bytes;
use ticketrail_core::{ProducerId, SessionId, limits as core};
use ticketrail_proto::error::Problem;

use super::Checked;
use crate::limits;

/// A name that must be given: 1..255 bytes without control characters.
pub(crate) fn name(text: &str, field: &str) -> Checked<()> {
    let wrong = if text.is_empty() {
        "it is empty"
    } else if text.len() > core::NAME_BYTES_MAX {
        "it is longer"
    } else if text.chars().any(char::is_control) {
        "it has control characters"
    } else {
        return Ok(());
    };
    let max = core::NAME_BYTES_MAX;
    let must = format!("1..{max} bytes of UTF-8 without control characters; {wrong}");
    Err(Problem::invalid_field(field, must))
}

/// A name of something to be made: the core refuses the reserved prefix too, but does not know what
/// the field is called here.
pub(crate) fn new_name(text: &str, field: &str) -> Checked<()> {
    name(text, field)?;
    if text.starts_with(core::RESERVED_PREFIX) {
        let must = format!(
            "a name without the reserved prefix `{}`",
            core::RESERVED_PREFIX
        );
        return Err(Problem::invalid_field(field, must));
    }
    Ok(())
}

/// The namespace of a request; empty is the default one.
pub(crate) fn namespace(text: &str) -> Checked<()> {
    if text.is_empty() {
        Ok(())
    } else {
        name(text, "namespace")
    }
}

/// The namespace that is meant.
pub(crate) fn namespace_or_default(text: &str) -> &str {
    if text.is_empty() {
        core::DEFAULT_NAMESPACE
    } else {
        text
    }
}

/// Namespace and queue of a request.
pub(crate) fn queue(in_namespace: &str, text: &str, field: &str) -> Checked<()> {
    namespace(in_namespace)?;
    name(text, field)
}

/// A producer's id.
pub(crate) fn producer_id(bytes: &[u8], field: &str) -> Checked<ProducerId> {
    id(bytes, field, "OpenProducer").map(ProducerId)
}

/// A session's id.
pub(crate) fn session_id(bytes: &[u8], field: &str) -> Checked<SessionId> {
    id(bytes, field, "`opened.session_id`").map(SessionId)
}

fn id(bytes: &[u8], field: &str, origin: &str) -> Checked<u128> {
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| {
        let found = bytes.len();
        Problem::invalid_field(field, format!("the 16 bytes of {origin}, it has {found}"))
    })?;
    Ok(u128::from_be_bytes(bytes))
}

/// An id of ours on the wire.
pub(crate) fn id_to_proto(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// How many items a page may have.
pub(crate) fn page_size(asked: Option<u32>, default: u32) -> Checked<usize> {
    match asked.unwrap_or(default) {
        size @ 1..=limits::PAGE_MAX => Ok(size as usize),
        size => {
            let must = format!("1..{}, it is {size}", limits::PAGE_MAX);
            Err(Problem::invalid_field("page_size", must))
        }
    }
}

/// The name after which a page begins: the last one of the page before. The token is that name with
/// a mark, so that anything else is refused.
pub(crate) fn page_token(token: &str) -> Checked<Option<&str>> {
    if token.is_empty() {
        return Ok(None);
    }
    let after = token
        .strip_prefix(AFTER)
        .filter(|after| name(after, "page_token").is_ok());
    after.map(Some).ok_or_else(bad_token)
}

/// The token of the page after `last`.
pub(crate) fn next_page_token(last: &str) -> String {
    format!("{AFTER}{last}")
}

/// What a token that is not one of ours is told.
pub(crate) fn bad_token() -> Problem {
    let must = "the `next_page_token` of the page before, or empty for the first page";
    Problem::invalid_field("page_token", must)
}

const AFTER: &str = "after:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_systems_pass_and_bad_ones_are_told_why() {
        for good in [
            "a",
            "../../etc/passwd",
            "a/b.c#d@e f",
            "ünï",
            &"x".repeat(255),
        ] {
            assert_eq!(name(good, "name"), Ok(()), "{good}");
        }
        let table = [
            ("", "it is empty"),
            (&"x".repeat(256), "it is longer"),
            ("a\nb", "control characters"),
            ("a\0", "control characters"),
            ("\u{85}", "control characters"),
        ];
        for (bad, why) in table {
            let problem = name(bad, "queue").unwrap_err();
            assert!(
                problem
                    .message()
                    .starts_with("`queue` must be 1..255 bytes"),
                "{problem}"
            );
            assert!(problem.message().contains(why), "{problem}");
        }
        assert_eq!(name("tr.x", "name"), Ok(()), "it may be asked for");
        assert!(new_name("tr.x", "name").is_err() && new_name("tr", "name").is_ok());
        assert_eq!(namespace(""), Ok(()));
        assert!(namespace("\t").is_err());
    }

    #[test]
    fn ids_have_16_bytes() {
        let id = id_to_proto(7);
        assert_eq!(producer_id(&id, "producer_id"), Ok(ProducerId(7)));
        assert!(producer_id(&id[..15], "producer_id").is_err());
        assert!(session_id(b"", "session_id").is_err());
    }

    #[test]
    fn pages_have_bounds_and_tokens_come_back() {
        assert_eq!(page_size(None, 100), Ok(100));
        assert_eq!(page_size(Some(1_000), 100), Ok(1_000));
        assert!(page_size(Some(0), 100).is_err());
        assert!(page_size(Some(1_001), 100).is_err());
        assert_eq!(page_token(&next_page_token("q/1")), Ok(Some("q/1")));
        assert_eq!(page_token(""), Ok(None));
        assert!(page_token("q/1").is_err());
        assert!(page_token("after:").is_err());
    }
}
