//! Messages: bytes in, bytes out.
//!
//! Lives here: what makes a message acceptable, EDNS, how large an answer may be and what is left out of one that is larger. Does not: what is
//! answered (`answer`), sockets (`dns`).
//! Invariants: no packet makes it panic; a packet that is no query, or that has no header, gets no answer, so that nobody is made to talk to
//! himself; every other gets one.
//! Sources: RFC 1035; RFC 6891 (EDNS), of which sizes count and options do not; RFC 2181, 9 (an answer that lacks additional records only
//! is not truncated); RFC 8482 aside, ANY is answered, since answers are small.

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, DecodeError},
};

use crate::views::dns::answer::Reply;

/// Largest answer by UDP that is not fragmented on any usual path (DNS flag day 2020).
const UDP_MOST: u16 = 1_232;
/// What every client takes by UDP (RFC 1035, 4.2.1).
const UDP_LEAST: u16 = 512;
/// No record is smaller: a pointer to its name, type, class, TTL, length and an IPv4 address.
const RECORD_LEAST: usize = 16;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// An answer on its way out, with what is counted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) bytes: Vec<u8>,
    pub(super) kind: &'static str,
    pub(super) code: &'static str,
    pub(super) truncated: bool,
}

/// Answers a packet; `resolve`, told how many records fit at most, gives none for names that are not ours. None if the packet deserves no answer.
pub(super) fn respond(
    packet: &[u8],
    carrier: Carrier,
    resolve: impl FnOnce(&Query, usize) -> Option<Reply>,
) -> Option<Answered> {
    let mut decoder = BinDecoder::new(packet);
    let header = Header::read(&mut decoder).ok()?;
    if header.message_type == MessageType::Response {
        return None;
    }
    let mut message = Message::response(header.id, header.op_code);
    message.metadata.recursion_desired = header.recursion_desired;
    message.metadata.checking_disabled = header.checking_disabled;
    if header.op_code != OpCode::Query {
        return finish(message, ResponseCode::NotImp, "none");
    }
    let Ok((query, edns)) = read(&mut decoder, &header) else {
        return finish(message, ResponseCode::FormErr, "none");
    };
    let kind = kind(query.query_type());
    let taken = edns.as_ref().map(Edns::max_payload);
    let version = edns.as_ref().map_or(0, Edns::version);
    message.edns = edns.map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MOST).set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    message.add_query(query);
    if version != 0 {
        return finish(message, ResponseCode::BADVERS, kind);
    }
    let limit = match carrier {
        Carrier::Udp => taken.unwrap_or(UDP_LEAST).clamp(UDP_LEAST, UDP_MOST),
        Carrier::Tcp => u16::MAX,
    };
    let query = &message.queries[0];
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    let ours = matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) && !transfer;
    let Some(reply) = ours.then(|| resolve(query, usize::from(limit) / RECORD_LEAST)).flatten() else {
        return finish(message, ResponseCode::Refused, kind);
    };
    message.metadata.authoritative = true;
    message.answers = reply.answers;
    message.authorities = reply.authorities;
    message.additionals = reply.additionals;
    message.metadata.response_code = reply.code;
    fit(message, limit, kind)
}

/// Reads the one question and what EDNS says; the rest of a query is of no interest but must be well formed.
fn read(decoder: &mut BinDecoder<'_>, header: &Header) -> Result<(Query, Option<Edns>), DecodeError> {
    let counts = header.counts;
    if counts.queries != 1 {
        return Err(DecodeError::InvalidEmptyRecord);
    }
    let query = Query::read(decoder)?;
    Message::read_records(decoder, counts.answers.into(), false, header.op_code)?;
    Message::read_records(decoder, counts.authorities.into(), false, header.op_code)?;
    let (_, edns, _) = Message::read_records(decoder, counts.additionals.into(), true, header.op_code)?;
    Ok((query, edns))
}

/// An answer without records, which fits everywhere: one question, at most.
fn finish(mut message: Message, code: ResponseCode, kind: &'static str) -> Option<Answered> {
    message.metadata.response_code = code;
    fit(message, u16::MAX, kind)
}

/// Encodes a message in at most `limit` bytes. Additional records go first; if answers have to go, the message says that it is truncated, and
/// keeps as many as there is room for.
fn fit(mut message: Message, limit: u16, kind: &'static str) -> Option<Answered> {
    let limit = usize::from(limit);
    let code = code(message.metadata.response_code);
    if message.answers.len() > limit / RECORD_LEAST {
        message.additionals.clear();
        cut(&mut message, limit / RECORD_LEAST);
    }
    loop {
        let bytes = message.to_vec().inspect_err(|error| tracing::warn!(%error, "an answer cannot be encoded")).ok()?;
        let written = left_out(&bytes).filter(|_| !message.metadata.truncation);
        if (bytes.len() <= limit && written.is_none()) || (message.answers.is_empty() && message.additionals.is_empty())
        {
            return Some(Answered { bytes, kind, code, truncated: message.metadata.truncation });
        }
        if !message.additionals.is_empty() {
            message.additionals.clear();
            continue;
        }
        let proportional = message.answers.len() * limit / bytes.len().max(1);
        let room = written.unwrap_or(proportional).min(message.answers.len() - 1); // each round leaves out one at least
        cut(&mut message, room);
    }
}

/// The number of answers that were encoded, if the encoder says that it left something out: what does not fit into the largest message there is.
fn left_out(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [_, _, flags, _, _, _, high, low, ..] if flags & TRUNCATED != 0 => {
            Some(u16::from_be_bytes([*high, *low]).into())
        }
        _ => None,
    }
}

/// TC, in the third byte of a message.
const TRUNCATED: u8 = 0b10;

fn cut(message: &mut Message, answers: usize) {
    message.answers.truncate(answers);
    message.metadata.truncation = true;
}

/// A question's type as a label: a closed set.
fn kind(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "a",
        RecordType::AAAA => "aaaa",
        RecordType::SRV => "srv",
        RecordType::TXT => "txt",
        RecordType::SOA => "soa",
        RecordType::NS => "ns",
        RecordType::ANY => "any",
        _ => "other",
    }
}

fn code(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "noerror",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::Refused => "refused",
        ResponseCode::FormErr => "formerr",
        ResponseCode::NotImp => "notimp",
        ResponseCode::BADVERS => "badvers",
        _ => "other",
    }
}
