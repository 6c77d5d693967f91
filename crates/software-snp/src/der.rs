//! The little of DER (X.690) that certificates need. AMD's leaves have extension values that no
//! certificate library writes, such as a hardware id that is no DER at all.

/// One element: tag, definite length, content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut bytes = vec![tag];
    if let (0..0x80, short) = (content.len(), length.first().copied().unwrap_or(0)) {
        bytes.push(short);
    } else {
        bytes.push(0x80 | u8::try_from(length.len()).unwrap_or(8));
        bytes.extend(length);
    }
    bytes.extend(content);
    bytes
}

pub(crate) fn sequence(elements: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &elements.concat())
}

pub(crate) fn set(elements: &[Vec<u8>]) -> Vec<u8> {
    element(0x31, &elements.concat())
}

/// An explicit, constructed context tag.
pub(crate) fn context(number: u8, content: &[u8]) -> Vec<u8> {
    element(0xa0 | number, content)
}

/// A number that is not negative: a leading zero keeps the sign bit clear.
pub(crate) fn integer(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = bytes.iter().take(7).take_while(|byte| **byte == 0).count();
    let mut content: Vec<u8> = bytes.into_iter().skip(zeros).collect();
    if content.first().is_some_and(|byte| *byte >= 0x80) {
        content.insert(0, 0);
    }
    element(2, &content)
}

pub(crate) fn object_identifier(arcs: &[u64]) -> Vec<u8> {
    let (first, rest) = arcs.split_at(arcs.len().min(2));
    let joined = first.iter().fold(0, |joined, arc| joined * 40 + arc);
    let content = std::iter::once(&joined)
        .chain(rest)
        .flat_map(|arc| base_128(*arc));
    element(6, &content.collect::<Vec<u8>>())
}

fn base_128(mut value: u64) -> Vec<u8> {
    let low = |value: u64| value.to_le_bytes()[0] & 0x7f;
    let mut digits = vec![low(value)];
    while value >= 0x80 {
        value >>= 7;
        digits.insert(0, 0x80 | low(value));
    }
    digits
}

/// A bit string of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(3, &[&[0], bytes].concat())
}

pub(crate) fn octet_string(bytes: &[u8]) -> Vec<u8> {
    element(4, bytes)
}

pub(crate) fn null() -> Vec<u8> {
    element(5, &[])
}

pub(crate) fn utf8(text: &str) -> Vec<u8> {
    element(0x0c, text.as_bytes())
}

pub(crate) fn printable(text: &str) -> Vec<u8> {
    element(0x13, text.as_bytes())
}

pub(crate) fn ia5(text: &str) -> Vec<u8> {
    element(0x16, text.as_bytes())
}

/// Seconds since 1970 as `UTCTime` up to 2049 and `GeneralizedTime` after it (RFC 5280, 4.1.2.5).
pub(crate) fn time(seconds: u64) -> Vec<u8> {
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    match (1950..2050).contains(&year) {
        true => element(0x17, format!("{:02}{rest}", year % 100).as_bytes()),
        false => element(0x18, format!("{year:04}{rest}").as_bytes()),
    }
}

/// Year, month and day of a day since 1970-01-01, counted through the years.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_few_bytes_as_they_can() {
        assert_eq!(element(4, &[])[..], [4, 0]);
        assert_eq!(element(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(element(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(element(4, &[0; 512])[..4], [4, 0x82, 2, 0]);
    }

    #[test]
    fn integers_from_128_up_take_a_leading_zero() {
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(127), [2, 1, 127]);
        assert_eq!(integer(0xd9), [2, 2, 0, 0xd9]);
        assert_eq!(integer(65_537), [2, 3, 1, 0, 1]);
    }

    #[test]
    fn object_identifiers_are_base_128() {
        let amd = object_identifier(&[1, 3, 6, 1, 4, 1, 3704, 1, 3, 8]);
        assert_eq!(amd, [6, 10, 0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1, 3, 8]);
    }

    #[test]
    fn times_change_form_in_2050() {
        assert_eq!(time(0)[2..], *b"700101000000Z");
        assert_eq!(time(1_709_210_096)[2..], *b"240229123456Z");
        assert_eq!(time(2_524_607_999)[2..], *b"491231235959Z");
        assert_eq!(time(2_524_608_000)[..], *b"\x18\x0f20500101000000Z");
    }
}
