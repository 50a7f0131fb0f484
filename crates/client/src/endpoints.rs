//! Reads the addresses of nodes as people write them.

use crate::error::{Error, Result};

/// Reads a list of endpoints: `scheme://host:port`, separated by commas. The scheme may be left out
/// (`http`), and so may everything but the port where the endpoint before gives it:
/// `http://127.0.0.1:7400,7401,7402` names three nodes.
///
/// # Errors
///
/// `INVALID_ENDPOINT` names the part that is not an endpoint, or says that the list is empty.
pub fn parse_endpoints(text: &str) -> Result<Vec<String>> {
    let mut endpoints: Vec<String> = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let endpoint = parse_endpoint(part, endpoints.last().map(String::as_str))?;
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    if endpoints.is_empty() {
        return Err(invalid("the list of endpoints is empty"));
    }
    Ok(endpoints)
}

fn parse_endpoint(part: &str, before: Option<&str>) -> Result<String> {
    if part.parse::<u16>().is_ok() {
        let base = before
            .and_then(|endpoint| endpoint.rsplit_once(':'))
            .ok_or_else(|| invalid(format!("`{part}` is a port without a host before it")))?;
        return Ok(format!("{}:{part}", base.0));
    }
    let (scheme, address) = part.split_once("://").unwrap_or(("http", part));
    if scheme != "http" {
        return Err(invalid(format!("`{part}` does not begin with http://")));
    }
    let address = address.trim_end_matches('/');
    let well_formed = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
    if !well_formed {
        return Err(invalid(format!("`{part}` is not host:port")));
    }
    Ok(format!("{scheme}://{address}"))
}

fn is_host(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    let message = message.into();
    Error::invalid(
        "INVALID_ENDPOINT",
        format!("{message}: write endpoints as http://host:port,http://host:port"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_as_people_write_them() {
        let cases: &[(&str, &[&str])] = &[
            ("http://a:1", &["http://a:1"]),
            (
                "a:1, b-2.example:20 ,",
                &["http://a:1", "http://b-2.example:20"],
            ),
            (
                "http://127.0.0.1:7400,7401",
                &["http://127.0.0.1:7400", "http://127.0.0.1:7401"],
            ),
            (
                "[::1]:7400,7401",
                &["http://[::1]:7400", "http://[::1]:7401"],
            ),
            ("a:1,a:1/", &["http://a:1"]),
        ];
        for (text, expected) in cases {
            assert_eq!(&parse_endpoints(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_endpoint() {
        for text in [
            "",
            " , ",
            "7400",
            "a",
            "a:",
            "a:70000",
            ":1",
            "ftp://a:1",
            "a b:1",
            "[::x]:1",
        ] {
            let error = parse_endpoints(text).unwrap_err();
            assert_eq!(error.reason(), "INVALID_ENDPOINT", "{text}");
        }
    }
}
