//! Protobuf's wire format: keys, varints, lengths.
//!
//! Lives here: reading records one by one, writing keys, varints and prefixed lengths. Does not: what a field means.
//! Source: protobuf.dev, "Encoding". Strict as prost is: a varint of more than 64 bits, field number 0, a length beyond
//! the end and a group that does not end as it began are errors.

/// Messages within one message that its readers follow, entries of maps among them: prost's limit, as that of C++ and Java.
pub(crate) const DEPTH: usize = 100;

/// How a record's payload is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Len,
    /// From a start key to the end key of the same number.
    Group,
    Fixed32,
}

impl WireType {
    fn bits(self) -> u32 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Len => 2,
            Self::Group => 3,
            Self::Fixed32 => 5,
        }
    }
}

/// The key that ends a group.
const END_GROUP: u32 = 4;
/// Groups within groups that are walked through.
const GROUPS: usize = 100;

/// Bytes that are no message, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

type Read<T> = Result<T, Malformed>;

/// One field on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'w> {
    pub(crate) number: u32,
    pub(crate) payload: Payload<'w>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Payload<'w> {
    Varint(u64),
    Fixed64(u64),
    Len(&'w [u8]),
    /// Without its keys.
    Group(&'w [u8]),
    Fixed32(u32),
}

impl Payload<'_> {
    #[inline]
    pub(crate) fn wire_type(self) -> WireType {
        match self {
            Self::Varint(_) => WireType::Varint,
            Self::Fixed64(_) => WireType::Fixed64,
            Self::Len(_) => WireType::Len,
            Self::Group(_) => WireType::Group,
            Self::Fixed32(_) => WireType::Fixed32,
        }
    }
}

/// Reads a message record by record.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'w> {
    rest: &'w [u8],
}

impl<'w> Reader<'w> {
    #[inline]
    pub(crate) fn new(wire: &'w [u8]) -> Self {
        Self { rest: wire }
    }

    /// Returns the next record; none at the end.
    #[inline]
    pub(crate) fn record(&mut self) -> Read<Option<Record<'w>>> {
        if let Some(record) = self.short() {
            return Ok(Some(record));
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, bits) = self.key()?;
        if bits == END_GROUP {
            return Err(Malformed("unexpected end group tag"));
        }
        let payload = self.payload(number, bits, GROUPS)?;
        Ok(Some(Record { number, payload }))
    }

    /// Walks over what is left, to its end.
    pub(crate) fn check(&mut self) -> Read<()> {
        while self.record()?.is_some() {}
        Ok(())
    }

    /// Takes a record whose key is one byte and whose value or length another, as those of most are. None if anything else
    /// stands here, be it wrong or not; then nothing is taken.
    #[inline]
    fn short(&mut self) -> Option<Record<'w>> {
        let [key @ 0x08..0x80, value @ 0..0x80, rest @ ..] = self.rest else { return None };
        let number = u32::from(key >> 3);
        match key & 7 {
            0 => {
                self.rest = rest;
                Some(Record { number, payload: Payload::Varint(u64::from(*value)) })
            }
            2 => {
                let (payload, rest) = rest.split_at_checked(usize::from(*value))?;
                self.rest = rest;
                Some(Record { number, payload: Payload::Len(payload) })
            }
            _ => None,
        }
    }

    /// Returns the next value of a packed list of this type; none at the end.
    #[inline]
    pub(crate) fn packed(&mut self, wire_type: WireType) -> Read<Option<Payload<'w>>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.payload(0, wire_type.bits(), 0).map(Some)
    }

    #[inline]
    fn key(&mut self) -> Read<(u32, u32)> {
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed("invalid key value"))?;
        if key >> 3 == 0 {
            return Err(Malformed("invalid tag value: 0"));
        }
        Ok((key >> 3, key & 7))
    }

    #[inline]
    fn payload(&mut self, number: u32, bits: u32, groups: usize) -> Read<Payload<'w>> {
        Ok(match bits {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(*self.fixed()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| Malformed("buffer underflow"))?;
                let (payload, rest) = self.rest.split_at_checked(length).ok_or(Malformed("buffer underflow"))?;
                self.rest = rest;
                Payload::Len(payload)
            }
            3 => Payload::Group(self.group(number, groups)?),
            5 => Payload::Fixed32(u32::from_le_bytes(*self.fixed()?)),
            _ => return Err(Malformed("invalid wire type value")),
        })
    }

    fn group(&mut self, number: u32, groups: usize) -> Read<&'w [u8]> {
        let groups = groups.checked_sub(1).ok_or(Malformed("groups nested too deep"))?;
        let whole = self.rest;
        loop {
            let length = whole.len() - self.rest.len();
            match self.key()? {
                (end, END_GROUP) if end == number => return Ok(&whole[..length]),
                (_, END_GROUP) => return Err(Malformed("unexpected end group tag")),
                (inner, bits) => self.payload(inner, bits, groups)?,
            };
        }
    }

    fn fixed<const N: usize>(&mut self) -> Read<&'w [u8; N]> {
        let (value, rest) = self.rest.split_first_chunk().ok_or(Malformed("buffer underflow"))?;
        self.rest = rest;
        Ok(value)
    }

    #[inline]
    fn varint(&mut self) -> Read<u64> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Read<u64> {
        let mut value = 0;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            if at == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << (7 * at);
            if *byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(Malformed("invalid varint"))
    }
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(crate) fn put_key(out: &mut Vec<u8>, number: u32, wire_type: WireType) {
    put_varint(out, u64::from(number << 3 | wire_type.bits()));
}

/// Writes a key that was made before. Nearly all are of one byte or two, which are cheaper to write than to copy.
#[inline]
pub(crate) fn put_raw_key(out: &mut Vec<u8>, key: &[u8]) {
    match key {
        [] => {}
        [one] => out.push(*one),
        [one, two] => out.extend_from_slice(&[*one, *two]),
        key => out.extend_from_slice(key),
    }
}

/// Ends a group that began with this key.
pub(crate) fn put_end_group(out: &mut Vec<u8>, key: &[u8]) {
    let start = out.len();
    out.extend_from_slice(key);
    // The lowest three bits are the wire type: 3 begins a group, 4 ends it.
    out[start] += 1;
}

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else {
        put_long_varint(out, value);
    }
}

fn put_long_varint(out: &mut Vec<u8>, mut value: u64) {
    let mut bytes = [0; 10];
    let mut last = 0;
    while value >= 0x80 {
        bytes[last] = value as u8 | 0x80;
        value >>= 7;
        last += 1;
    }
    bytes[last] = value as u8;
    // All ten and then less: a copy of known length is no call.
    let end = out.len() + last + 1;
    out.extend_from_slice(&bytes);
    out.truncate(end);
}

/// Returns how many bytes `put_varint` writes.
pub(crate) fn varint_length(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Makes room for the length of what follows; returns where, for `close_length`.
#[inline]
pub(crate) fn open_length(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

/// Writes the length of what was written since `open_length`. One byte was reserved: most messages are shorter than 128
/// bytes, and moving a longer one costs less than measuring all of them beforehand.
#[inline]
pub(crate) fn close_length(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
    } else {
        move_for_length(out, start, length);
    }
}

/// Begins a field that is a message: behind a length, or between two keys if it is a group.
pub(crate) fn open_message(out: &mut Vec<u8>, number: u32, is_group: bool) -> Open {
    let wire_type = if is_group { WireType::Group } else { WireType::Len };
    let key = out.len();
    put_key(out, number, wire_type);
    match is_group {
        true => Open::Group(key..out.len()),
        false => Open::Length(open_length(out)),
    }
}

/// Ends what `open_message` began.
pub(crate) fn close_message(out: &mut Vec<u8>, open: Open) {
    match open {
        Open::Length(start) => close_length(out, start),
        Open::Group(key) => {
            let key = out[key].to_vec();
            put_end_group(out, &key);
        }
    }
}

/// A message that is being written.
#[derive(Debug)]
pub(crate) enum Open {
    Length(usize),
    /// Where its key is.
    Group(std::ops::Range<usize>),
}

fn move_for_length(out: &mut Vec<u8>, start: usize, length: usize) {
    let more = varint_length(length as u64) - 1;
    out.resize(out.len() + more, 0);
    out.copy_within(start..start + length, start + more);
    let mut value = length;
    for slot in &mut out[start - 1..start + more] {
        *slot = value as u8 | 0x80;
        value >>= 7;
    }
    out[start + more - 1] &= 0x7F;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_any_size_are_written_before_what_they_measure() {
        for length in [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_152] {
            let mut out = vec![0x0A];
            let start = open_length(&mut out);
            out.resize(out.len() + length, 7);
            close_length(&mut out, start);
            let record = Reader::new(&out).record().unwrap().unwrap();
            assert_eq!(record.payload, Payload::Len(&vec![7; length]));
            let mut plain = vec![0x0A];
            put_bytes(&mut plain, &vec![7; length]);
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn a_varint_of_any_length_reads_back() {
        for value in (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut out = vec![0x08];
            put_varint(&mut out, value);
            assert_eq!(out.len(), 1 + varint_length(value));
            let record = Reader::new(&out).record().unwrap().unwrap();
            assert_eq!((record.number, record.payload), (1, Payload::Varint(value)));
        }
    }

    #[test]
    fn a_group_ends_with_its_own_number() {
        for (number, wire) in [(1, &b"\x0b\x18\x07\x0c"[..]), (2048, b"\x83\x80\x01\x18\x07\x84\x80\x01")] {
            let mut out = Vec::new();
            let open = open_message(&mut out, number, true);
            out.extend_from_slice(b"\x18\x07");
            close_message(&mut out, open);
            assert_eq!(out, wire);
            let record = Reader::new(&out).record().unwrap().unwrap();
            assert_eq!((record.number, record.payload), (number, Payload::Group(b"\x18\x07")));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let table: [(&[u8], &str); 9] = [
            (&[0x80], "invalid varint"),
            (&[0x08], "invalid varint"),
            (&[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], "invalid varint"),
            (&[0x00, 0x01], "invalid tag value: 0"),
            (&[0x0E], "invalid wire type value"),
            (&[0x0A, 0x02, 0x00], "buffer underflow"),
            (&[0x0D, 0x00, 0x00, 0x00], "buffer underflow"),
            (&[0x0C], "unexpected end group tag"),
            (&[0x0B, 0x14], "unexpected end group tag"),
        ];
        for (wire, reason) in table {
            assert_eq!(Reader::new(wire).record().unwrap_err(), Malformed(reason), "{wire:02X?}");
        }
        let deep = [0x0B].repeat(200);
        assert_eq!(Reader::new(&deep).record().unwrap_err(), Malformed("groups nested too deep"));
    }

    #[test]
    fn groups_are_taken_whole() {
        let wire = [0x0B, 0x10, 0x05, 0x1B, 0x1C, 0x0C, 0x08, 0x01];
        let mut reader = Reader::new(&wire);
        assert_eq!(reader.record().unwrap().unwrap().payload, Payload::Group(&[0x10, 0x05, 0x1B, 0x1C]));
        assert_eq!(reader.record().unwrap().unwrap().payload, Payload::Varint(1));
        assert!(reader.record().unwrap().is_none());
    }
}
