//! Bodies that unfold: a few KiB that say a GiB.
//!
//! Lives here: making them, without ever having what they unfold to. Does not: sending them (`attacks`).
//! Source: RFC 1952, 2.2 (members follow each other); RFC 8878, 3.1.1.2 (a block of one byte, repeated).

use std::io::Write;

use bytes::Bytes;

/// What each unfolds to, in MiB.
pub(super) const MIB: usize = 1024;
/// What that of brotli does: its blocks go by what came before, so that it is compressed in full.
pub(super) const BROTLI_MIB: usize = 32;

/// How a JSON document begins whose text never ends.
const START: &[u8] = br#"{"text":""#;

/// Returns the bombs by the names of their encodings.
pub(super) fn all() -> [(&'static str, Bytes); 3] {
    [("gzip", gzip(MIB).into()), ("br", brotli(BROTLI_MIB).into()), ("zstd", zstd(MIB).into())]
}

fn gzip(mib: usize) -> Vec<u8> {
    let member = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    [member(START), member(&vec![b'a'; 1 << 20]).repeat(mib)].concat()
}

fn brotli(mib: usize) -> Vec<u8> {
    let mut writer = brotli::CompressorWriter::new(Vec::new(), 1 << 20, 1, 20);
    writer.write_all(START).unwrap();
    for _ in 0..mib {
        writer.write_all(&[b'a'; 1 << 20]).unwrap();
    }
    writer.into_inner()
}

fn zstd(mib: usize) -> Vec<u8> {
    let block = |last: u32, kind: u32, size: usize| {
        let head = last | kind << 1 | u32::try_from(size).unwrap() << 3;
        head.to_le_bytes()[..3].to_vec()
    };
    // Magic, no flags, a window of 128 KiB.
    let head = [0x28, 0xB5, 0x2F, 0xFD, 0, 7 << 3];
    let most = 128 << 10;
    let repeated = [block(0, 1, most), vec![b'a']].concat().repeat(mib * 8);
    [&head[..], &block(0, 0, START.len()), START, &repeated, &block(1, 0, 0)].concat()
}

#[test]
fn bombs_are_small_and_unfold_to_what_they_say() {
    use std::io::{Read, copy, sink};
    for (encoding, bomb) in all() {
        assert!(bomb.len() < 2 << 20, "{encoding}: {}", bomb.len());
    }
    let (gzip, brotli, zstd) = (gzip(5), brotli(5), zstd(5));
    let readers: [Box<dyn Read + '_>; 3] = [
        Box::new(flate2::read::MultiGzDecoder::new(&gzip[..])),
        Box::new(brotli::Decompressor::new(&brotli[..], 4096)),
        Box::new(ruzstd::decoding::StreamingDecoder::new(&zstd[..]).unwrap()),
    ];
    for mut reader in readers {
        let unfolded = copy(&mut reader, &mut sink()).unwrap();
        assert!((5 << 20..=7 << 20).contains(&unfolded), "{unfolded}");
    }
}
