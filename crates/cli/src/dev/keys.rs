//! What is typed while the cluster runs.

use std::io::BufRead;

use tokio::sync::mpsc;

/// One line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Restart(u64),
    Kill(u64),
    Status,
    Quit,
    Unknown(String),
}

/// Reads standard input on a thread of its own. The end of the input ends nothing: the channel just falls
/// silent.
pub(super) fn read() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            let Some(key) = parse(&line) else { continue };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}

fn parse(line: &str) -> Option<Key> {
    let line = line.trim();
    let mut words = line.split_whitespace();
    let verb = words.next()?;
    let node = words.next().and_then(|word| word.parse().ok());
    let key = match (verb, node, words.next()) {
        ("r" | "restart" | "start", Some(id), None) => Key::Restart(id),
        ("k" | "kill", Some(id), None) => Key::Kill(id),
        ("s" | "status", None, None) => Key::Status,
        ("q" | "quit" | "exit", None, None) => Key::Quit,
        _ => Key::Unknown(line.to_owned()),
    };
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_its_few_keys() {
        assert_eq!(parse("r 2"), Some(Key::Restart(2)));
        assert_eq!(parse("  k   3 "), Some(Key::Kill(3)));
        assert_eq!(parse("q"), Some(Key::Quit));
        assert_eq!(parse("s"), Some(Key::Status));
        assert_eq!(parse(""), None);
        for line in ["r", "k two", "r 1 2", "help"] {
            assert_eq!(parse(line), Some(Key::Unknown(line.to_owned())));
        }
    }
}
