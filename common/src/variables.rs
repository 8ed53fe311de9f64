//! `DURAMEN_…` environment variables that mean nothing: a misspelt one must not be taken for a setting.
//!
//! * In: names and values, the names that the program knows. Out: the first one that it does not know, with the nearest it does.
//! * Not refused: what tests use ([`TESTS_PREFIX`], and in builds for tests the one that plants bugs), and what Kubernetes sets
//!   in every container for a service called `duramen…`.
//! * Deliberately absent: reading the environment.

/// Every variable of the project.
pub const PREFIX: &str = "DURAMEN_";
/// Variables of the project's own tests.
pub const TESTS_PREFIX: &str = "DURAMEN_TEST_";

/// Names that are shown as the nearest.
const NEAREST_MAX: usize = 3;

/// A variable is set that nothing reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is set in the environment, and nothing reads it: unset it; {hint}")]
pub struct UnknownVariable {
    /// Its name.
    pub name: String,
    /// What may have been meant.
    hint: String,
}

/// Refuses the first of these variables that begins with [`PREFIX`] and is not known.
pub fn check(variables: impl IntoIterator<Item = (String, String)>, known: &[String]) -> Result<(), UnknownVariable> {
    let mut unknown: Vec<String> = variables
        .into_iter()
        .filter(|(name, value)| name.starts_with(PREFIX) && !is_of_others(name, value))
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name))
        .collect();
    // The environment has no order that means anything.
    unknown.sort();
    match unknown.into_iter().next() {
        Some(name) => {
            let hint = hint(&name, known);
            Err(UnknownVariable { name, hint })
        }
        None => Ok(()),
    }
}

fn is_of_others(name: &str, value: &str) -> bool {
    #[cfg(feature = "planted")]
    if name == crate::planted::PLANTED_VARIABLE {
        return true;
    }
    let is_of_kubernetes = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || (name.ends_with("_PORT") && (value.starts_with("tcp://") || value.starts_with("udp://")));
    name.starts_with(TESTS_PREFIX) || is_of_kubernetes
}

fn hint(name: &str, known: &[String]) -> String {
    let mut near: Vec<(usize, &str)> = known.iter().map(|other| (distance(name, other), other.as_str())).collect();
    near.sort_unstable();
    near.dedup();
    let names: Vec<&str> = near.iter().take(NEAREST_MAX).map(|&(_, name)| name).collect();
    format!("there are {}, and others (--help)", names.join(", "))
}

/// How many letters must be inserted, removed or replaced to make one of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, left) in one.bytes().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(other.bytes()) {
            let replaced = diagonal + usize::from(left != right);
            diagonal = *cell;
            before = replaced.min(*cell + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        ["DURAMEN_LOG", "DURAMEN_LOG_NODES", "DURAMEN_DATA_DIR", "DURAMEN_URL"].map(str::to_owned).to_vec()
    }

    fn refused(name: &str, value: &str) -> Option<String> {
        let variables = [("PATH", "/bin"), (name, value)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        check(variables, &known()).err().map(|error| error.to_string())
    }

    #[test]
    fn a_misspelt_variable_is_refused_with_what_may_be_meant() {
        for (name, meant) in [
            ("DURAMEN_DATADIR", "there are DURAMEN_DATA_DIR"),
            ("DURAMEN_LOG_NODE", "there are DURAMEN_LOG_NODES"),
            ("DURAMEN_HTTP_PORT", "there are DURAMEN_"),
            ("DURAMEN_", "DURAMEN_LOG"),
        ] {
            let told = refused(name, "7001").unwrap_or_else(|| panic!("{name} was taken"));
            assert!(told.starts_with(name) && told.contains(meant), "{told}");
        }
    }

    #[test]
    fn known_variables_and_those_of_others_are_let_be() {
        for (name, value) in [
            ("DURAMEN_LOG", ""),
            ("DURAMEN_TEST_SEED", "1"),
            ("DURAMENDATA", "x"),
            ("duramen_x", "x"),
            ("DURAMEN_SERVICE_HOST", "10.0.0.1"),
            ("DURAMEN_SERVICE_PORT_HTTP", "7001"),
            ("DURAMEN_PORT", "tcp://10.0.0.1:7001"),
            ("DURAMEN_PORT_7001_TCP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(refused(name, value), None, "{name}");
        }
    }

    #[test]
    fn distances_count_letters() {
        assert_eq!([distance("kitten", "sitting"), distance("", "abc"), distance("abc", "abc")], [3, 3, 0]);
    }
}
