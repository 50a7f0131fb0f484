//! Cuts real input into messages: lines, stanzas, or records between separators.

use std::io::{self, BufRead};

use bytes::Bytes;

/// The hard limit of a message body; a longer record cannot be one message on any server.
const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where one record ends and the next begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Split {
    /// The whole input is one record.
    Whole,
    /// Each line is one, without its line feed; an empty line is an empty record.
    Lines,
    /// Blank lines stand between records; a record keeps its inner line feeds and loses the last one.
    Stanzas,
    /// These bytes stand between records; what follows the last one is a record if it is not empty.
    Separator(Vec<u8>),
}

/// The records of an input, in their order.
pub(crate) struct Records<R> {
    input: R,
    split: Split,
    done: bool,
}

impl<R: BufRead> Records<R> {
    pub(crate) fn new(input: R, split: Split) -> Self {
        Self {
            input,
            split,
            done: false,
        }
    }

    fn read(&mut self) -> io::Result<Option<Bytes>> {
        match self.split.clone() {
            Split::Whole => self.whole(),
            Split::Lines => self.line(),
            Split::Stanzas => self.stanza(),
            Split::Separator(separator) => self.separated(&separator),
        }
    }

    fn whole(&mut self) -> io::Result<Option<Bytes>> {
        self.done = true;
        let mut record = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(&mut self.input, RECORD_BYTES_MAX as u64 + 1),
            &mut record,
        )?;
        finished(record).map(Some)
    }

    fn line(&mut self) -> io::Result<Option<Bytes>> {
        let mut record = Vec::new();
        if self.until(b'\n', &mut record)? == 0 {
            return Ok(None);
        }
        if record.last() == Some(&b'\n') {
            record.pop();
        }
        finished(record).map(Some)
    }

    fn stanza(&mut self) -> io::Result<Option<Bytes>> {
        let mut record = Vec::new();
        loop {
            let start = record.len();
            let read = self.until(b'\n', &mut record)?;
            let blank = record[start..].iter().all(u8::is_ascii_whitespace);
            if blank {
                record.truncate(start);
            }
            if read == 0 || (blank && start > 0) {
                break;
            }
        }
        if record.last() == Some(&b'\n') {
            record.pop();
        }
        if record.is_empty() {
            Ok(None)
        } else {
            finished(record).map(Some)
        }
    }

    fn separated(&mut self, separator: &[u8]) -> io::Result<Option<Bytes>> {
        let last = *separator
            .last()
            .expect("an empty separator is refused with the arguments");
        let mut record = Vec::new();
        while self.until(last, &mut record)? > 0 {
            if record.ends_with(separator) {
                record.truncate(record.len() - separator.len());
                return finished(record).map(Some);
            }
        }
        if record.is_empty() {
            Ok(None)
        } else {
            finished(record).map(Some)
        }
    }

    /// Reads through the next `byte`, but never much beyond the longest record.
    fn until(&mut self, byte: u8, record: &mut Vec<u8>) -> io::Result<usize> {
        let room = (RECORD_BYTES_MAX + 2).saturating_sub(record.len()) as u64;
        if room == 0 {
            return Err(too_long());
        }
        io::BufRead::read_until(&mut io::Read::take(&mut self.input, room), byte, record)
    }
}

impl<R: BufRead> Iterator for Records<R> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let record = self.read().transpose();
        self.done |= !matches!(record, Some(Ok(_)));
        record
    }
}

fn finished(record: Vec<u8>) -> io::Result<Bytes> {
    if record.len() > RECORD_BYTES_MAX {
        Err(too_long())
    } else {
        Ok(record.into())
    }
}

fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a record is longer than 16 MiB, the hard limit of a message: is the separator right?",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str, split: Split) -> Vec<String> {
        let records = Records::new(text.as_bytes(), split);
        records
            .map(|one| String::from_utf8(one.unwrap().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn lines_keep_empty_ones_and_need_no_last_line_feed() {
        assert_eq!(records("a\n\nb", Split::Lines), ["a", "", "b"]);
        assert_eq!(records("a\nb\n", Split::Lines), ["a", "b"]);
        assert!(records("", Split::Lines).is_empty());
    }

    #[test]
    fn stanzas_are_what_stands_between_blank_lines() {
        let text = "\n\nPackage: a\nSize: 1\n\n \t\nPackage: b\n\n\n";
        assert_eq!(
            records(text, Split::Stanzas),
            ["Package: a\nSize: 1", "Package: b"]
        );
        assert_eq!(records("x", Split::Stanzas), ["x"]);
        assert!(records("\n\n", Split::Stanzas).is_empty());
    }

    #[test]
    fn separators_of_several_bytes_may_overlap_their_own_beginning() {
        let split = || Split::Separator(b"--".to_vec());
        assert_eq!(records("a--b-c----d", split()), ["a", "b-c", "", "d"]);
        assert_eq!(records("a--", split()), ["a"]);
        assert_eq!(records("a\0b\0", Split::Separator(vec![0])), ["a", "b"]);
    }

    #[test]
    fn the_whole_input_is_one_record_even_if_it_is_empty() {
        assert_eq!(records("a\n\nb\n", Split::Whole), ["a\n\nb\n"]);
        assert_eq!(records("", Split::Whole), [""]);
    }

    #[test]
    fn a_record_beyond_the_hard_limit_is_an_error_and_the_end() {
        let text = vec![b'x'; RECORD_BYTES_MAX + 10];
        for split in [
            Split::Whole,
            Split::Lines,
            Split::Stanzas,
            Split::Separator(vec![0]),
        ] {
            let mut records = Records::new(text.as_slice(), split);
            assert!(records.next().unwrap().is_err());
            assert!(records.next().is_none());
        }
    }
}
