//! Parts of the addresses of calls.

/// One part of a path; everything but letters, digits and `-_.~` is encoded. What joins addresses by itself would drop
/// tabs and line breaks, and the call would go to another object.
///
/// `.` and `..` stay as they are, and no encoding keeps them from being taken as steps: they name nothing.
pub fn percent_encode(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_part_of_a_path() {
        assert_eq!(
            percent_encode("отчёт & 100%?#+/.pdf"),
            "%D0%BE%D1%82%D1%87%D1%91%D1%82%20%26%20100%25%3F%23%2B%2F.pdf"
        );
        assert_eq!(percent_encode("a-b_c.d~E9"), "a-b_c.d~E9");
        assert_eq!(percent_encode("vic\ttim\r\n"), "vic%09tim%0D%0A");
    }
}
