//! Lists in header values: elements between commas.
//!
//! * In: one header value. Out: its elements, trimmed; empty ones are legal and are left out.
//! * A comma inside a quoted string belongs to its element.
//! * Deliberately absent: entity tags, where a backslash escapes nothing.
//! * Source: RFC 9110, sections 5.6.1 (lists) and 5.6.4 (quoted strings).

/// The elements of a comma-separated list.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    split_outside_quotes(value, b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Splits at a byte, except inside quoted strings. A string that is never closed reaches to the end.
pub(crate) fn split_outside_quotes(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |&byte| {
        if is_escaped {
            is_escaped = false;
        } else if is_quoted && byte == b'\\' {
            is_escaped = true;
        } else if byte == b'"' {
            is_quoted = !is_quoted;
        } else {
            return byte == separator && !is_quoted;
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_elements_are_left_out_and_quoted_commas_stay() {
        let of = |text: &'static str| elements(text.as_bytes()).map(|element| std::str::from_utf8(element).unwrap());
        for (text, wanted) in [
            ("", &[][..]),
            (" , ,,", &[]),
            (", a ,,b,", &["a", "b"]),
            (r#"x="a, b" , y"#, &[r#"x="a, b""#, "y"]),
            (r#"x="a\", b", y"#, &[r#"x="a\", b""#, "y"]),
            (r#"x="never closed, y"#, &[r#"x="never closed, y"#]),
        ] {
            assert_eq!(of(text).collect::<Vec<_>>(), wanted, "{text}");
        }
    }
}
