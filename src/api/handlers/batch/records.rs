//! What the pax records of an entry say that must hold for it. They are this store's own (`pax`, "vendor-specific
//! keywords"): other readers pass them over, and a word of ours that is not known here is refused.

use super::super::super::errors::Problem;
use super::super::super::http1::set_condition;
use super::super::super::tar::OWN_RECORDS;
use crate::domain::value_objects::Precondition;

/// What must hold for a file: what must for all of them, but where its records say otherwise.
pub(super) fn precondition(
    of_all: &Precondition,
    records: &[(Vec<u8>, Vec<u8>)],
) -> Result<Precondition, Problem> {
    let mut precondition = of_all.clone();
    for (name, value) in records {
        let is_known = match (std::str::from_utf8(name), std::str::from_utf8(value)) {
            (Ok(name), Ok(value)) => set_condition(&mut precondition, name, value),
            _ => false,
        };
        if !is_known {
            let detail =
                format!("the record {OWN_RECORDS}{} means nothing here", String::from_utf8_lossy(name));
            return Err(Problem::new(400, "unknown_record", detail));
        }
    }
    Ok(precondition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::value_objects::{ContentHash, EntityTags};

    fn said(of_all: &Precondition, records: &[(&str, &str)]) -> Result<Precondition, &'static str> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let records: Vec<_> = records.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        precondition(of_all, &records).map_err(|problem| problem.code)
    }

    #[test]
    fn a_record_takes_the_place_of_what_was_said_of_all() {
        let nothing = Precondition::default();
        let only_new = Precondition { if_none_match: Some(EntityTags::Any), ..nothing.clone() };
        let hash = ContentHash::from_bytes([0xab; 32]);
        let tag = format!("\"x\", \"sha256-{hash}\"");
        let of_version = EntityTags::Hashes(vec![hash]);
        assert_eq!(said(&only_new, &[]), Ok(only_new.clone()));
        assert_eq!(said(&nothing, &[("if-none-match", "*")]), Ok(only_new.clone()));
        let replaced = Precondition { if_match: Some(of_version.clone()), ..nothing.clone() };
        assert_eq!(said(&nothing, &[("if-match", "*"), ("if-match", &tag)]), Ok(replaced));
        let both = Precondition { if_none_match: Some(of_version), ..nothing.clone() };
        assert_eq!(said(&only_new, &[("if-none-match", &tag)]), Ok(both));
        for name in ["", "If-Match", "if-unmodified-since", "reference", "if-match "] {
            assert_eq!(said(&nothing, &[(name, "*")]), Err("unknown_record"), "{name}");
        }
        assert!(precondition(&nothing, &[(b"if-match".to_vec(), vec![0xff])]).is_err());
    }
}
