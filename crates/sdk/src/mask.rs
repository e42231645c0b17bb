//! Which fields an update changes.
//!
//! Lives here: reading a `google.protobuf.FieldMask` of plain fields. Does not: paths into messages; no resource of ours has any.
//! Source: AIP-134: an empty mask names the fields that are set.

use prost_types::FieldMask;

/// The fields that an update names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(Vec<String>);

impl Mask {
    /// Takes the mask of a request; none is an empty one.
    pub fn new(mask: Option<FieldMask>) -> Self {
        Mask(mask.unwrap_or_default().paths)
    }

    /// Returns whether `field` is to change: the mask names it, or the mask is empty and the field `is_set`.
    pub fn names(&self, field: &str, is_set: bool) -> bool {
        match self.0.as_slice() {
            [] => is_set,
            paths => paths.iter().any(|path| path == field),
        }
    }

    /// Returns what is wrong with the mask if it names another field than those that can change. Reads on from the field's name.
    pub fn beyond(&self, changeable: &[&str]) -> Option<String> {
        let fixed = self.0.iter().find(|path| !changeable.contains(&path.as_str()))?;
        Some(format!("names {fixed:?}; {} can be changed", changeable.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Mask {
        Mask::new(Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }))
    }

    #[test]
    fn an_empty_mask_names_what_is_set() {
        for mask in [Mask::new(None), mask(&[])] {
            assert!(mask.names("name", true) && !mask.names("name", false));
        }
    }

    #[test]
    fn a_mask_names_fields_whether_set_or_not() {
        let mask = mask(&["name"]);
        assert!(mask.names("name", false) && !mask.names("email", true));
    }

    #[test]
    fn a_field_that_cannot_change_is_told() {
        assert_eq!(mask(&["name"]).beyond(&["name", "email"]), None);
        let wrong = mask(&["name", "id"]).beyond(&["name", "email"]).unwrap();
        assert_eq!(wrong, "names \"id\"; name and email can be changed");
    }
}
