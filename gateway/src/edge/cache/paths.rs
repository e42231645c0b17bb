//! Paths as the cache knows them: how far apart two of them are.
//!
//! Lives here: which spellings are one path, and which a write may mean. Does not: routing, which goes by what was sent.

use percent_encoding::percent_decode_str;

use super::store::Key;

/// What the resource of a path lies under: all spellings under the same that might name the same thing by some rule of unescaping, so that a write by one
/// forgets the others, too.
pub(super) fn resource(path: &str) -> Key {
    let mut key = vec![b'R'];
    key.extend(percent_decode_str(path));
    if key.ends_with(b"/") {
        key.pop();
    }
    key.into()
}

/// A path by its meaning: escapes that need not be are none, others are in capitals (RFC 3986, 6.2.2), and a slash at the end means nothing.
pub(super) fn normal(path: &str) -> Vec<u8> {
    let bytes = path.strip_suffix('/').unwrap_or(path).as_bytes();
    let mut normal = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| escaped(after)).flatten();
        match escaped {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(byte),
            Some(_) => normal.extend([b'%', after[0].to_ascii_uppercase(), after[1].to_ascii_uppercase()]),
            None => normal.push(*first),
        }
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    normal
}

/// The byte that two digits mean.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_path_are_one_and_those_a_write_may_mean_lie_together() {
        for (path, means) in [
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b"),
            ("/%61/%7e%2D", "/a/~-"),
            ("/a%2fb%3a", "/a%2Fb%3A"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/%C3%bc", "/%C3%BC"),
        ] {
            assert_eq!(String::from_utf8(normal(path)).unwrap(), means, "{path}");
        }
        assert_ne!(normal("/a%2Fb"), normal("/a/b"));
        assert_ne!(normal("/a%40b"), normal("/a@b"));
        for (one, other) in [("/a%40b", "/a@b"), ("/a%2Fb", "/a/b"), ("/%61/", "/a"), ("/a%3Ab", "/a:b")] {
            assert_eq!(resource(one), resource(other));
        }
        assert_ne!(resource("/a"), resource("/b"));
    }
}
