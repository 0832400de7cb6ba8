//! GPT-2's alphabet: byte-level BPE vocabularies spell every byte as one printable character.
//!
//! Printable bytes of Latin-1 stand for themselves, the other 68 for the characters from U+0100 on, in byte order
//! (`bytes_to_unicode` of GPT-2's `encoder.py`).

/// First character that stands for a byte which is not printable.
const SHIFTED: u32 = 0x100;
/// Characters below this may be part of the alphabet.
const END: usize = 0x100 + 68;

const fn is_printable(byte: u32) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut shifted) = (0u32, SHIFTED);
    while byte < 256 {
        let code = if is_printable(byte) {
            byte
        } else {
            shifted += 1;
            shifted - 1
        };
        if let Some(c) = char::from_u32(code) {
            chars[byte as usize] = c;
        }
        byte += 1;
    }
    chars
};

const BYTES: [Option<u8>; END] = {
    let mut bytes = [None; END];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// The character that stands for `byte`.
pub(super) fn char_of(byte: u8) -> char {
    CHARS[byte as usize]
}

/// The byte that `c` stands for, `None` outside the alphabet.
pub(super) fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_to_one_over_all_bytes() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(b'a'), char_of(0xAD)), ('Ġ', 'Ċ', 'a', '\u{143}'));
        assert_eq!((byte_of(' '), byte_of('\u{144}'), byte_of('😀')), (None, None, None));
    }
}
