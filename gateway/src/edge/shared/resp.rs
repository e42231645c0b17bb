//! RESP2, as far as one script needs it: commands of bulk strings, answers that are an integer, a text or an error.
//!
//! Lives here: writing and reading, sans I/O. Does not: connections (`edge::shared`).
//! Source: redis.io, "Redis serialization protocol specification". A server speaks version 2 until it is asked for 3.

use std::io;

use bytes::{Buf, BytesMut};

/// Longest answer that is waited for.
const LONGEST: usize = 4 << 10;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Integer(i64),
    Text(String),
    Nothing,
    Error(String),
}

/// Writes a command.
pub(super) fn command(out: &mut BytesMut, words: &[&str]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes the next answer out of what was heard; none if it is not whole yet.
pub(super) fn read(heard: &mut BytesMut) -> io::Result<Option<Reply>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let Some(end) = heard.windows(2).position(|it| it == b"\r\n") else {
        return if heard.len() > LONGEST { Err(bad()) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&heard[..end]).map_err(|_| bad())?;
    let (sort, rest) = line.split_at_checked(1).ok_or_else(bad)?;
    let reply = match sort {
        ":" => Reply::Integer(rest.parse().map_err(|_| bad())?),
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        "$" if rest == "-1" => Reply::Nothing,
        "$" => {
            let length: usize = rest.parse().ok().filter(|it| *it <= LONGEST).ok_or_else(bad)?;
            let begin = end + 2;
            let Some(text) = heard.get(begin..begin + length + 2) else { return Ok(None) };
            let text = text.strip_suffix(b"\r\n").ok_or_else(bad)?;
            let text = String::from_utf8(text.to_vec()).map_err(|_| bad())?;
            heard.advance(begin + length + 2);
            return Ok(Some(Reply::Text(text)));
        }
        _ => return Err(bad()),
    };
    heard.advance(end + 2);
    Ok(Some(reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_whole_or_not_yet() {
        let whole = b":17\r\n+OK\r\n$3\r\nabc\r\n$0\r\n\r\n$-1\r\n-ERR no\r\n:-1\r\n";
        let expected = [
            Reply::Integer(17),
            Reply::Text("OK".into()),
            Reply::Text("abc".into()),
            Reply::Text(String::new()),
            Reply::Nothing,
            Reply::Error("ERR no".into()),
            Reply::Integer(-1),
        ];
        for cut in 0..=whole.len() {
            let (mut heard, mut replies) = (BytesMut::from(&whole[..cut]), Vec::new());
            while let Some(reply) = read(&mut heard).unwrap() {
                replies.push(reply);
            }
            heard.extend_from_slice(&whole[cut..]);
            while let Some(reply) = read(&mut heard).unwrap() {
                replies.push(reply);
            }
            assert_eq!(replies, expected, "cut at {cut}");
        }
        for bad in [&b"!x\r\n"[..], b"\r\n", b":x\r\n", b"$99999\r\n", b"$1\r\nabc\r\n", b"*1\r\n"] {
            assert!(read(&mut BytesMut::from(bad)).is_err(), "{bad:?}");
        }
        assert!(read(&mut BytesMut::from(&[b'+'; 5_000][..])).is_err(), "an answer without an end");
    }

    #[test]
    fn a_command_is_a_list_of_words() {
        let mut out = BytesMut::new();
        command(&mut out, &["GET", "ä"]);
        assert_eq!(&out[..], "*2\r\n$3\r\nGET\r\n$2\r\nä\r\n".as_bytes());
    }
}
