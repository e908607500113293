//! For names that do not exist: which one was probably meant.

/// The unknown name in an error message of serde.
pub fn unknown_name(message: &str) -> Option<&str> {
    message.split_once("unknown field `")?.1.split('`').next()
}

/// The most similar of the names that serde lists in its message.
pub fn nearest<'a>(name: &str, message: &'a str) -> Option<&'a str> {
    let known = message.split_once("expected")?.1;
    known
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity > 0.6)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_nonsense_has_none() {
        let message = "unknown field `priorty`, expected one of `priority`, `process`, `target`";
        assert_eq!(unknown_name(message), Some("priorty"));
        assert_eq!(nearest("priorty", message), Some("priority"));
        assert_eq!(nearest("xyz", message), None);
        assert_eq!(unknown_name("invalid type"), None);
    }
}
