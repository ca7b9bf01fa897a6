//! The protocol of Redis, Valkey and Sentinel on the wire (RESP2 and RESP3): commands packed into bytes, and replies cut out of a
//! stream that comes from a stranger.
//!
//! A reply is handed to the redis crate's parser only when it is there in full and within limits: neither an endless reply nor a
//! deeply nested one costs more than the limits say.

use std::borrow::Cow;

use redis::Value;

/// The longest reply that is read, in bytes. `CLIENT LIST` of ten thousand clients is about 4 MB.
pub const LONGEST_REPLY: usize = 16 << 20;

/// The longest line: a status, an error or a number.
const LONGEST_LINE: usize = 64 << 10;

/// The most elements that one reply has in all its lists. Each costs more memory than it is long.
const MOST_ELEMENTS: usize = 1 << 17;

/// How deep lists may stand in lists. `SENTINEL REPLICAS` needs 2.
const DEEPEST: usize = 8;

/// What came is no reply, or too long a one. The connection is useless from here on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what came is no reply: {0}")]
pub struct WireError(String);

/// Packs `commands`, each its words, for one write. A word is any bytes.
pub fn pack<W: AsRef<[u8]>>(commands: &[&[W]]) -> Vec<u8> {
    let mut packed = Vec::new();
    for words in commands {
        let mut command = redis::Cmd::new();
        for word in *words {
            command.arg(word.as_ref());
        }
        packed.extend(command.get_packed_command());
    }
    packed
}

/// Bytes as they come in, given out as replies.
#[derive(Debug)]
pub struct Replies {
    /// How long one may be.
    longest: usize,
    bytes: Vec<u8>,
    /// Where the first reply begins that was neither read nor taken yet.
    kept: usize,
    /// Where the first reply begins that was not passed yet.
    start: usize,
    scan: Scan,
}

impl Default for Replies {
    fn default() -> Self {
        Replies::of_at_most(LONGEST_REPLY)
    }
}

impl Replies {
    /// None of which is longer than `longest` bytes, which is [`LONGEST_REPLY`] at most.
    pub fn of_at_most(longest: usize) -> Self {
        Replies { longest: longest.min(LONGEST_REPLY), bytes: Vec::new(), kept: 0, start: 0, scan: Scan::default() }
    }

    /// Adds what was received.
    pub fn received(&mut self, bytes: &[u8]) {
        if self.kept > 0 {
            self.bytes.drain(..self.kept);
            self.start -= self.kept;
            self.scan.at = self.scan.at.saturating_sub(self.kept);
            self.scan.searched = self.scan.searched.saturating_sub(self.kept);
            self.kept = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// From now on none is longer than that.
    pub fn limit(&mut self, longest: usize) {
        self.longest = longest.min(LONGEST_REPLY);
    }

    /// The next reply, if all of it is there. An error reply is a [`Value::ServerError`].
    ///
    /// # Errors
    /// [`WireError`].
    pub fn next_reply(&mut self) -> Result<Option<Value>, WireError> {
        let Some(bytes) = self.pass()? else { return Ok(None) };
        let value = read(bytes)?;
        self.forget();
        Ok(Some(value))
    }

    /// The bytes of the next reply, if all of it is there. They are kept until they are taken.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn pass(&mut self) -> Result<Option<&[u8]>, WireError> {
        let Some(end) = self.scan.end(&self.bytes, self.start)? else {
            if self.bytes.len() - self.start > self.longest {
                return Err(WireError(format!("longer than {} bytes", self.longest)));
            }
            return Ok(None);
        };
        let begin = std::mem::replace(&mut self.start, end);
        self.scan = Scan { at: end, ..Scan::default() };
        Ok(Some(&self.bytes[begin..end]))
    }

    /// The bytes of all replies that were passed, for [`replies`].
    pub fn take(&mut self) -> Vec<u8> {
        let taken = match (self.kept, self.start == self.bytes.len()) {
            (0, true) => std::mem::take(&mut self.bytes),
            _ => self.bytes[self.kept..self.start].to_vec(),
        };
        self.forget();
        taken
    }

    /// Between replies it keeps no memory: a keeper has four of it for each master name.
    fn forget(&mut self) {
        match self.start >= self.bytes.len() {
            true => *self = Replies::of_at_most(self.longest),
            false => self.kept = self.start,
        }
    }
}

/// A reply as it lies in the bytes that came, or in a [`Value`]: a keeper reads hundreds a second, most of whose words it has no use for.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply<'a> {
    /// Nothing.
    Nil,
    /// A status, OK for example.
    Status(&'a str),
    /// Any bytes.
    Text(&'a [u8]),
    /// A number.
    Int(i64),
    /// A list; of a map its names and values in turn.
    List(Vec<Reply<'a>>),
    /// Anything else: an error, for example.
    Other(Cow<'a, Value>),
}

impl<'a> Reply<'a> {
    /// Its text, where it is text or a number.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Reply::Status(text) => Some((*text).into()),
            Reply::Text(bytes) => Some(String::from_utf8_lossy(bytes)),
            Reply::Int(number) => Some(number.to_string().into()),
            Reply::Nil | Reply::List(_) | Reply::Other(_) => None,
        }
    }

    /// Whether it is the status OK.
    pub fn is_ok(&self) -> bool {
        *self == Reply::Status("OK")
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Other(value) if matches!(**value, Value::ServerError(_)))
    }

    /// The same in memory of its own.
    pub fn to_value(&self) -> Value {
        match self {
            Reply::Nil => Value::Nil,
            Reply::Status("OK") => Value::Okay,
            Reply::Status(text) => Value::SimpleString((*text).to_owned()),
            Reply::Text(bytes) => Value::BulkString(bytes.to_vec()),
            Reply::Int(number) => Value::Int(*number),
            Reply::List(list) => Value::Array(list.iter().map(Reply::to_value).collect()),
            Reply::Other(value) => (**value).clone(),
        }
    }
}

impl<'a> From<&'a Value> for Reply<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Nil => Reply::Nil,
            Value::Okay => Reply::Status("OK"),
            Value::SimpleString(text) => Reply::Status(text),
            Value::BulkString(bytes) => Reply::Text(bytes),
            Value::VerbatimString { text, .. } => Reply::Text(text.as_bytes()),
            Value::Int(number) => Reply::Int(*number),
            Value::Array(list) => Reply::List(list.iter().map(Reply::from).collect()),
            Value::Map(pairs) => {
                Reply::List(pairs.iter().flat_map(|(name, value)| [name.into(), value.into()]).collect())
            }
            other => Reply::Other(Cow::Borrowed(other)),
        }
    }
}

/// All replies that stand in `bytes`, one behind the other: those that were passed, and so are within limits.
///
/// # Errors
/// [`WireError`]; also where the last one has no end.
pub fn replies(bytes: &[u8]) -> Result<Vec<Reply<'_>>, WireError> {
    let (mut rest, mut all) = (bytes, Vec::new());
    while !rest.is_empty() {
        let mut after = rest;
        all.push(match plain(&mut after) {
            Some(reply) => reply,
            None => {
                let end = Scan::default().end(rest, 0)?.ok_or_else(|| WireError("it has no end".to_owned()))?;
                after = &rest[end..];
                Reply::Other(Cow::Owned(parse(&rest[..end])?))
            }
        });
        rest = after;
    }
    Ok(all)
}

/// The reply that `bytes` are.
fn read(bytes: &[u8]) -> Result<Value, WireError> {
    let mut rest = bytes;
    match plain(&mut rest) {
        Some(reply) if rest.is_empty() => Ok(reply.to_value()),
        _ => parse(bytes),
    }
}

fn parse(bytes: &[u8]) -> Result<Value, WireError> {
    redis::parse_redis_value(bytes).map_err(|error| WireError(error.to_string()))
}

/// The reply at the beginning of `bytes`, if it is of those of which a keeper reads hundreds a second: lists of texts and numbers. The redis
/// crate's parser, which reads all others, takes five times as long for them, and copies each word.
fn plain<'a>(bytes: &mut &'a [u8]) -> Option<Reply<'a>> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
    *bytes = rest;
    let (kind, text) = line.split_first()?;
    let number = || text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()?.parse::<u32>().ok())?;
    match (kind, text) {
        (b'+', text) => std::str::from_utf8(text).ok().map(Reply::Status),
        (b':', _) => Some(Reply::Int(number()?.into())),
        (b'$' | b'*', b"-1") => Some(Reply::Nil),
        (b'$', _) => {
            let (text, end) = rest.split_at_checked(number()? as usize)?;
            *bytes = end.strip_prefix(b"\r\n")?;
            Some(Reply::Text(text))
        }
        (b'*', _) => {
            let count = number()? as usize;
            let mut list = Vec::with_capacity(count.min(rest.len() / 4));
            for _ in 0..count {
                list.push(plain(bytes)?);
            }
            Some(Reply::List(list))
        }
        _ => None,
    }
}

/// Finds where a reply ends, going on where it stopped for want of bytes.
#[derive(Debug, Default)]
struct Scan {
    /// Everything before is read.
    at: usize,
    /// No end of a line begins from there up to here: what comes in small pieces is searched once.
    searched: usize,
    /// The lists that are not at their end, with how many elements are to come.
    open: Vec<usize>,
    /// How many elements the lists so far have.
    elements: usize,
}

impl Scan {
    fn end(&mut self, bytes: &[u8], start: usize) -> Result<Option<usize>, WireError> {
        self.at = self.at.max(start);
        loop {
            let rest = &bytes[self.at..];
            let from = self.searched.saturating_sub(self.at);
            let mut pairs = rest.windows(2).take(LONGEST_LINE).skip(from);
            let line = match pairs.position(|two| two == b"\r\n") {
                Some(line) => from + line,
                None if rest.len() <= LONGEST_LINE => {
                    self.searched = self.at + rest.len().saturating_sub(1);
                    return Ok(None);
                }
                None => return Err(WireError(format!("a line longer than {LONGEST_LINE} bytes"))),
            };
            let (kind, count) = (rest.first().copied().unwrap_or_default(), &rest[1.min(line)..line]);
            let mut length = line + 2;
            let mut elements = 0;
            match kind {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
                b'$' | b'=' | b'!' => {
                    if let Some(size) = size(count)? {
                        length += size + 2;
                    }
                }
                b'*' | b'~' | b'>' => elements = size(count)?.unwrap_or(0),
                b'%' => elements = size(count)?.unwrap_or(0) * 2,
                other => return Err(WireError(format!("it begins with {:?}", char::from(other)))),
            }
            if rest.len() < length {
                return Ok(None);
            }
            self.at += length;
            if elements > 0 {
                self.elements += elements;
                if self.elements > MOST_ELEMENTS {
                    return Err(WireError(format!("more than {MOST_ELEMENTS} elements")));
                }
                self.open.push(elements);
                if self.open.len() > DEEPEST {
                    return Err(WireError(format!("more than {DEEPEST} lists in one another")));
                }
                continue;
            }
            loop {
                match self.open.last_mut() {
                    None => return Ok(Some(self.at)),
                    Some(left) if *left > 1 => {
                        *left -= 1;
                        break;
                    }
                    Some(_) => drop(self.open.pop()),
                }
            }
        }
    }
}

/// A length or a number of elements; None for the nil of RESP2, -1.
fn size(digits: &[u8]) -> Result<Option<usize>, WireError> {
    let text = std::str::from_utf8(digits).unwrap_or_default();
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(size) if (0..=LONGEST_REPLY as i64).contains(&size) => Ok(Some(size as usize)),
        _ => Err(WireError(format!("a length of {:?}", text.chars().take(20).collect::<String>()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &[u8] = b"+OK\r\n*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n$-1\r\n*-1\r\n*0\r\n:7\r\n-ERR no\r\n\
        *2\r\n*1\r\n+a\r\n*2\r\n:1\r\n:2\r\n%1\r\n+k\r\n$2\r\n\r\n\r\n>2\r\n+x\r\n_\r\n#t\r\n";

    fn all(parts: &[&[u8]]) -> Result<Vec<Value>, WireError> {
        let mut replies = Replies::default();
        let mut all = Vec::new();
        for part in parts {
            replies.received(part);
            while let Some(value) = replies.next_reply()? {
                all.push(value);
            }
        }
        Ok(all)
    }

    #[test]
    fn replies_come_out_whole_however_they_came_in() {
        let whole = all(&[STREAM]).unwrap();
        assert_eq!(whole.len(), 11, "{whole:?}");
        assert_eq!(whole[0], Value::Okay);
        assert_eq!(
            whole[1],
            Value::Array(vec![Value::BulkString(b"10.0.0.1".to_vec()), Value::BulkString(b"6379".to_vec())])
        );
        assert!(matches!(&whole[6], Value::ServerError(_)));
        for size in [1, 2, 3, 7] {
            let parts: Vec<&[u8]> = STREAM.chunks(size).collect();
            assert_eq!(all(&parts).unwrap(), whole);
        }
    }

    #[test]
    fn what_was_passed_is_taken_at_once_and_is_what_would_have_been_read() {
        let values = all(&[STREAM]).unwrap();
        for size in [1, 2, 3, 7, STREAM.len()] {
            let (mut incoming, mut passed, mut taken) = (Replies::default(), 0, Vec::new());
            for part in STREAM.chunks(size) {
                incoming.received(part);
                while let Some(bytes) = incoming.pass().unwrap() {
                    assert!(bytes.ends_with(b"\r\n"));
                    passed += 1;
                    // In threes, as one asks.
                    if passed % 3 == 0 {
                        taken.push(incoming.take());
                    }
                }
            }
            taken.push(incoming.take());
            assert_eq!((incoming.bytes.capacity(), taken.concat().as_slice()), (0, STREAM), "{size}");
            let read = taken.iter().flat_map(|bytes| replies(bytes).unwrap());
            let same = |(value, reply): (&Value, Reply)| match value {
                Value::Map(_) | Value::Push { .. } => matches!(&reply, Reply::Other(other) if **other == *value),
                value => reply.to_value() == *value,
            };
            assert!(values.iter().zip(read).all(same), "{size}");
        }
        assert!(replies(b"$5\r\nabc").is_err() && replies(b"!\r\n").is_err());
    }

    #[test]
    fn what_is_no_reply_or_has_no_end_is_refused() {
        let deep = "*1\r\n".repeat(DEEPEST + 1);
        let long = format!("${}\r\n", LONGEST_REPLY + 1);
        for bad in ["HTTP/1.1 200 OK\r\n", "$x\r\n", "$-2\r\n", "*99999999999\r\n", &deep, &long, "\r\n"] {
            assert!(all(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        let endless = [&[b'+'; LONGEST_LINE + 2][..]; 1];
        assert!(all(&endless).is_err());
        let many = format!("*{}\r\n", MOST_ELEMENTS / 2 + 1);
        assert!(all(&[format!("*2\r\n{many}{}{many}", ":1\r\n".repeat(MOST_ELEMENTS / 2 + 1)).as_bytes()]).is_err());
    }

    #[test]
    fn a_stream_has_a_limit_of_its_own_and_gives_memory_back() {
        let mut replies = Replies::of_at_most(100);
        replies.received(b"$200\r\n");
        assert_eq!(replies.next_reply(), Ok(None));
        replies.received(&[b'x'; 100]);
        assert!(replies.next_reply().unwrap_err().to_string().contains("100 bytes"));
        let mut replies = Replies::default();
        replies.received(format!("$1000000\r\n{}\r\n", "x".repeat(1_000_000)).as_bytes());
        assert!(replies.next_reply().unwrap().is_some());
        replies.received(b"+OK\r\n");
        assert!(replies.bytes.capacity() < 1_000_000);
        assert_eq!(replies.next_reply(), Ok(Some(Value::Okay)));
    }

    #[test]
    fn lists_of_texts_and_numbers_are_read_here_and_nothing_else() {
        for (bytes, is_read) in [
            ("*3\r\n$4\r\nname\r\n:7\r\n*1\r\n+OK\r\n", true),
            ("$-1\r\n", true),
            ("*1\r\n-ERR no\r\n", false),
            ("%1\r\n+k\r\n+v\r\n", false),
            (":-7\r\n", false),
        ] {
            let mut rest = bytes.as_bytes();
            let value = plain(&mut rest);
            assert_eq!(value.is_some(), is_read, "{bytes:?}");
            // All are, with what the redis crate is for.
            assert_eq!(replies(bytes.as_bytes()).map(|all| all.len()), Ok(1), "{bytes:?}");
            assert!(!is_read || rest.is_empty());
        }
    }

    #[test]
    fn commands_are_words_with_their_lengths() {
        assert_eq!(pack(&[&["PING"], &["GET", "a b"]]), b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
    }

    proptest! {
        #[test]
        fn what_is_read_here_is_what_the_redis_crate_reads(bytes in "[*][0-3]\r\n([$][0-3]\r\n[a\r\n]{0,3}\r\n|[:][-+0-9]{1,12}\r\n|[+](OK|é|a b|)\r\n|[$*]-1\r\n|[*]1\r\n){0,4}") {
            let bytes = bytes.as_bytes();
            let mut rest = bytes;
            if let Some(value) = plain(&mut rest) {
                let read = bytes.len() - rest.len();
                prop_assert_eq!(redis::parse_redis_value(&bytes[..read]).ok(), Some(value.to_value()));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'%'), Just(b':'), Just(b'-'), Just(b'1'), Just(b'2'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..200
        )) {
            let _either = all(&[&bytes]);
        }
    }
}
