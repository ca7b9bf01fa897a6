//! An error with all its causes, in one line.

/// `error` and what caused it, the outermost first.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_cause_is_told() {
        let error = crate::settings::Settings::load_from(std::path::Path::new("/proc/1/root/x/\0")).unwrap_err();
        let text = super::with_causes(&error);
        assert!(text.starts_with("cannot read /proc/1/root/x/") && text.contains(": "), "{text}");
    }
}
