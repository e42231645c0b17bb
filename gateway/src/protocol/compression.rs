//! Compression of bodies and messages that are whole: gzip, br and zstd.
//!
//! Lives here: the encodings by name, which one a peer prefers, both directions for bytes that lie in memory. Does not: headers of any protocol,
//! REST answers (`compression::answers`).
//! Bound: what comes out of a decompressor is cut off at the reader's limit, so that a small body cannot become a large one (a "zip bomb").
//! Source: RFC 9110, 12.5.3 (`accept-encoding`); RFC 1952, 7932, 8878.

pub(crate) mod answers;

use std::io::{self, Read, Write};

use bytes::Bytes;
use ruzstd::{
    decoding::StreamingDecoder,
    encoding::{CompressionLevel, compress_to_vec},
};

/// An encoding besides `identity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Br,
    Zstd,
}

/// All names, as headers that say what we read list them.
pub(crate) const NAMES: &str = "gzip, br, zstd";

/// For answers made while somebody waits: about where a better ratio begins to cost more time than it saves on a network.
const GZIP_LEVEL: u32 = 5;
const BR_QUALITY: u32 = 4;
const BR_WINDOW: u32 = 20;

/// Largest window a zstd decoder must have (RFC 8878, 3.1.1.1.2): a frame's head alone must not cost more memory.
const ZSTD_WINDOW: u64 = 8 << 20;

/// The name of an encoding that we do not speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression {0:?} is not known here; known: identity, {NAMES}")]
pub(crate) struct UnknownEncoding(pub(crate) String);

/// Why bytes cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecompressError {
    #[error("more than the limit of {0} bytes when decompressed")]
    TooLong(usize),
    #[error("not what its compression says")]
    Malformed(#[source] io::Error),
}

impl Encoding {
    /// Returns the encoding of a name as headers have it; none for `identity`.
    pub(crate) fn named(name: &str) -> Result<Option<Self>, UnknownEncoding> {
        let is = |known: &str| name.trim().eq_ignore_ascii_case(known);
        match () {
            () if is("identity") || is("") => Ok(None),
            () if is("gzip") || is("x-gzip") => Ok(Some(Self::Gzip)), // the same (RFC 9110, 8.4.1.3)
            () if is("br") => Ok(Some(Self::Br)),
            () if is("zstd") => Ok(Some(Self::Zstd)),
            () => Err(UnknownEncoding(name.chars().take(40).collect())),
        }
    }

    /// The name in headers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the encoding a list of accepted ones prefers, out of those spoken here. The highest weight wins, then the earlier one, as RPC protocols
    /// order their lists; `*` is not taken for a wish.
    pub(crate) fn preferred(accepted: &str) -> Option<Self> {
        let mut best: Option<(Self, u16)> = None;
        let mut identity = 0;
        for item in accepted.split(',') {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight(parameters);
            match Self::named(name) {
                Ok(Some(known)) if weight > best.map_or(0, |(_, weight)| weight) => best = Some((known, weight)),
                Ok(None) if !name.trim().is_empty() => identity = weight,
                _ => {}
            }
        }
        best.filter(|(_, weight)| *weight >= identity).map(|(known, _)| known)
    }

    /// Decompresses.
    pub(crate) fn decompress(self, bytes: &[u8], limit: usize) -> Result<Bytes, DecompressError> {
        let read = match self {
            Self::Gzip => read(flate2::read::MultiGzDecoder::new(bytes), limit),
            Self::Br => read(brotli::Decompressor::new(bytes, 4096), limit),
            Self::Zstd => StreamingDecoder::new_with_max_window_size(bytes, ZSTD_WINDOW)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
                .and_then(|decoder| read(decoder, limit)),
        };
        match read {
            Ok(whole) if whole.len() > limit => Err(DecompressError::TooLong(limit)),
            Ok(whole) => Ok(whole.into()),
            Err(error) => Err(DecompressError::Malformed(error)),
        }
    }

    /// Compresses.
    pub(crate) fn compress(self, bytes: &[u8]) -> Bytes {
        let compressed = match self {
            Self::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                out.write_all(bytes).and_then(|()| out.finish())
            }
            Self::Br => {
                let mut out = brotli::CompressorWriter::new(Vec::new(), 4096, BR_QUALITY, BR_WINDOW);
                out.write_all(bytes).map(|()| out.into_inner())
            }
            Self::Zstd => Ok(compress_to_vec(bytes, CompressionLevel::Fastest)),
        };
        compressed.expect("writing to memory does not fail").into()
    }
}

/// Reads one byte past the limit at most.
fn read(decoder: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut whole)?;
    Ok(whole)
}

/// The weight among a list item's parameters, in thousandths (RFC 9110, 12.4.2).
fn weight(parameters: &str) -> u16 {
    let given = parameters.split(';').filter_map(|it| it.trim().strip_prefix("q=")).next();
    given.map_or(1000, |text| text.parse().map_or(0.0, |weight: f32| weight.clamp(0.0, 1.0) * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Br, Encoding::Zstd];

    #[test]
    fn names_are_those_of_http_and_what_is_not_known_says_what_is() {
        for encoding in ALL {
            assert_eq!(Encoding::named(encoding.name()), Ok(Some(encoding)));
            assert!(NAMES.contains(encoding.name()));
        }
        assert_eq!(Encoding::named("identity"), Ok(None));
        assert_eq!(Encoding::named("X-GZIP"), Ok(Some(Encoding::Gzip)));
        assert!(Encoding::named("foo").unwrap_err().to_string().contains("gzip, br, zstd"));
    }

    #[test]
    fn the_highest_weight_is_preferred_and_then_the_earlier() {
        let check = |accepted, expected| assert_eq!(Encoding::preferred(accepted), expected, "{accepted}");
        check("", None);
        check("*", None);
        check("identity", None);
        check("foo, br", Some(Encoding::Br));
        check("gzip, deflate, br, zstd", Some(Encoding::Gzip));
        check("gzip;q=0.5, br;q=0.9", Some(Encoding::Br));
        check("zstd;q=0, gzip;q=0.001", Some(Encoding::Gzip));
        check("identity;q=0.5, gzip;q=0.1", None);
        check("identity, gzip;q=0.8", None);
        check("identity, gzip", Some(Encoding::Gzip));
        check("gzip;q=x", None);
    }

    #[test]
    fn a_small_body_that_would_become_a_large_one_is_cut_off() {
        let zeros = vec![0; 4 << 20];
        for encoding in ALL {
            let small = encoding.compress(&zeros);
            assert!(small.len() < 10_000, "{encoding:?} {}", small.len());
            assert!(matches!(encoding.decompress(&small, 1 << 20), Err(DecompressError::TooLong(_))), "{encoding:?}");
            assert_eq!(encoding.decompress(&small, 4 << 20).unwrap().len(), 4 << 20);
            assert!(matches!(
                encoding.decompress(&small[..small.len() - 1], 4 << 20),
                Err(DecompressError::Malformed(_))
            ));
        }
        // A frame that asks for a window of 2 GiB.
        assert!(matches!(
            Encoding::Zstd.decompress(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00], 9),
            Err(DecompressError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn bytes_come_back_and_no_bytes_are_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for encoding in ALL {
                prop_assert_eq!(&encoding.decompress(&encoding.compress(&bytes), 2000).unwrap(), &bytes);
                drop(encoding.decompress(&bytes, 100));
            }
        }
    }
}
