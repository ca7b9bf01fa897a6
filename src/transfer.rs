//! The copy of its data that a server sends to who replicates from it: what comes after SYNC (`replication.c` of Redis,
//! `readSyncBulkPayload`).
//!
//! First newlines, for as long as the copy is being made; then a line `$LENGTH` and so many bytes, or a line `$EOF:MARKER` with a marker of
//! 40 bytes and the copy up to that marker. What follows is not part of it. Nothing of it is kept in memory.

use std::io::{self, Write};

/// How long the marker is.
const MARKER: usize = 40;

/// The longest line in front.
const LONGEST_LINE: usize = 512;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The server does not send one: its own words.
    #[error("{0}")]
    Refused(String),
    /// What came is no copy.
    #[error("what came is no copy of the data: {0}")]
    Unreadable(String),
    /// It could not be written.
    #[error("cannot write")]
    Write(#[from] io::Error),
}

/// Takes one apart from what is around it.
#[derive(Debug)]
pub struct Transfer {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The line in front, as far as it is there.
    Head(Vec<u8>),
    /// So many bytes are to come.
    Sized(u64),
    /// Up to the marker; with the last bytes, which may be its beginning.
    Marked([u8; MARKER], Vec<u8>),
    Done,
}

impl Default for Transfer {
    fn default() -> Self {
        Transfer { state: State::Head(Vec::new()) }
    }
}

impl Transfer {
    /// Takes what was received, and writes to `sink` what of it is data. Says whether all is there.
    ///
    /// # Errors
    /// [`TransferError`]; nothing good comes after it.
    pub fn received(&mut self, mut bytes: &[u8], sink: &mut dyn Write) -> Result<bool, TransferError> {
        while let State::Head(line) = &mut self.state {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(false) };
            bytes = rest;
            match byte {
                // It is still at work.
                b'\n' if line.is_empty() => {}
                b'\n' => self.state = head(line)?,
                _ if line.len() >= LONGEST_LINE => {
                    return Err(TransferError::Unreadable(format!("a line longer than {LONGEST_LINE} bytes")));
                }
                byte => line.push(byte),
            }
        }
        match &mut self.state {
            State::Sized(left) => {
                let now = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                sink.write_all(&bytes[..now])?;
                *left -= now as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
            }
            State::Marked(marker, held) => {
                held.extend_from_slice(bytes);
                // The marker is drawn by lot for each transfer: its first occurrence is it.
                match held.windows(MARKER).position(|part| part == marker) {
                    Some(end) => {
                        sink.write_all(&held[..end])?;
                        self.state = State::Done;
                    }
                    None => {
                        let surely = held.len().saturating_sub(MARKER - 1);
                        sink.write_all(&held[..surely])?;
                        held.drain(..surely);
                    }
                }
            }
            State::Head(_) | State::Done => {}
        }
        Ok(matches!(self.state, State::Done))
    }
}

/// What the line in front says.
fn head(line: &[u8]) -> Result<State, TransferError> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let unreadable = || {
        let shown: String = text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Err(TransferError::Unreadable(format!("it begins with {shown:?}")))
    };
    if let Some(why) = text.strip_prefix('-') {
        return Err(TransferError::Refused(why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()));
    }
    let Some(length) = text.strip_prefix('$') else { return unreadable() };
    if let Some(marker) = length.strip_prefix("EOF:") {
        return match <[u8; MARKER]>::try_from(marker.as_bytes()) {
            Ok(marker) => Ok(State::Marked(marker, Vec::new())),
            Err(_) => unreadable(),
        };
    }
    match length.parse::<u64>() {
        Ok(length) if length > 0 => Ok(State::Sized(length)),
        _ => unreadable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: &str = "0123456789abcdef0123456789abcdef01234567";

    /// The data and whether it was all, received in pieces of so many bytes.
    fn take(stream: &[u8], size: usize) -> Result<(Vec<u8>, bool), TransferError> {
        let (mut transfer, mut sink, mut done) = (Transfer::default(), Vec::new(), false);
        for part in stream.chunks(size) {
            done = transfer.received(part, &mut sink)?;
        }
        Ok((sink, done))
    }

    #[test]
    fn both_forms_come_out_whole_however_they_came_in() {
        let data = b"REDIS0010\xff\n$EOF:\r\n0123456789abcdef0123456789abcdef0123456".as_slice();
        let sized = [format!("\n\n${}\r\n", data.len()).as_bytes(), data, b"*1\r\n$4\r\nPING\r\n"].concat();
        let marked = [format!("\n$EOF:{MARK}\r\n").as_bytes(), data, MARK.as_bytes(), b"*1\r\n$4\r\nPING\r\n"].concat();
        for stream in [&sized, &marked] {
            for size in [1, 2, 7, 41, 4096] {
                assert_eq!(take(stream, size).unwrap(), (data.to_vec(), true), "{size}");
            }
            // Broken off: not all.
            assert!(!take(&stream[..stream.len() - 20], 5).unwrap().1);
        }
    }

    #[test]
    fn what_is_refused_or_no_copy_is_said() {
        for (stream, part) in [
            ("-NOMASTERLINK Can't SYNC while not connected with my master\r\n", "NOMASTERLINK Can't SYNC"),
            ("\n-NOPERM this user has no permissions\r\n", "NOPERM"),
            ("$0\r\n", "$0"),
            ("$-1\r\n", "$-1"),
            ("$99999999999999999999\r\n", "$9999"),
            ("$EOF:short\r\n", "EOF:short"),
            ("+OK\r\n", "+OK"),
            ("HTTP/1.1 200 OK\r\n", "HTTP"),
        ] {
            let error = take(stream.as_bytes(), 3).unwrap_err().to_string();
            assert!(error.contains(part), "{stream:?}: {error}");
        }
        assert!(take(&[b'x'; LONGEST_LINE + 1], 100).is_err());
    }

    #[test]
    fn little_is_held() {
        let (mut transfer, mut sink) = (Transfer::default(), io::sink());
        transfer.received(format!("$EOF:{MARK}\r\n").as_bytes(), &mut sink).unwrap();
        for _ in 0..100 {
            transfer.received(&[b'0'; 4096], &mut sink).unwrap();
        }
        let State::Marked(_, held) = &transfer.state else { panic!("{transfer:?}") };
        assert!(held.len() < MARKER && held.capacity() < 10_000, "{}", held.capacity());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(
            prop_oneof![Just(b'$'), Just(b'\n'), Just(b'\r'), Just(b'-'), Just(b'1'), Just(b'E'), any::<u8>()], 0..200
        ), size in 1..50_usize) {
            if let Ok((data, _)) = take(&bytes, size) {
                prop_assert!(data.len() <= bytes.len());
            }
        }
    }
}
