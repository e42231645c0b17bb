//! The order of services: each after the ones it needs.
//!
//! Lives here: stages and cycles, as plain functions. Does not: starting or stopping anything (`director`).
//! A stage starts when the one before it serves; stops go the other way.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use weft_model::ServiceName;

/// Services that need each other in a circle; the first is named again at the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cycle(pub(crate) Vec<ServiceName>);

impl Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "needs form a cycle: {}", names.join(" → "))
    }
}

/// Returns the services in stages, by name within one: every service stands in the stage after the last of those it needs.
pub(crate) fn stages<'a>(
    services: impl Iterator<Item = (&'a ServiceName, &'a [ServiceName])>,
) -> Result<Vec<Vec<ServiceName>>, Cycle> {
    let needs: BTreeMap<_, _> = services.collect();
    let mut known = BTreeMap::new();
    for name in needs.keys() {
        stage(name, &needs, &mut known, &mut Vec::new())?;
    }
    let mut stages = vec![Vec::new(); known.values().max().map_or(0, |last| last + 1)];
    for (name, stage) in known {
        stages[stage].push(name);
    }
    Ok(stages)
}

fn stage(
    name: &ServiceName,
    needs: &BTreeMap<&ServiceName, &[ServiceName]>,
    known: &mut BTreeMap<ServiceName, usize>,
    path: &mut Vec<ServiceName>,
) -> Result<usize, Cycle> {
    if let Some(stage) = known.get(name) {
        return Ok(*stage);
    }
    if let Some(start) = path.iter().position(|it| it == name) {
        let mut circle = path.split_off(start);
        circle.push(name.clone());
        return Err(Cycle(circle));
    }
    path.push(name.clone());
    let mut own = 0;
    for need in needs.get(name).copied().unwrap_or_default() {
        own = own.max(stage(need, needs, known, path)? + 1);
    }
    path.pop();
    known.insert(name.clone(), own);
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(services: &[(&str, &[&str])]) -> Result<Vec<Vec<String>>, String> {
        let parse = |name: &&str| -> ServiceName { name.parse().unwrap() };
        let services: Vec<(ServiceName, Vec<ServiceName>)> =
            services.iter().map(|(name, needs)| (parse(name), needs.iter().map(parse).collect())).collect();
        let stages =
            stages(services.iter().map(|(name, needs)| (name, needs.as_slice()))).map_err(|it| it.to_string())?;
        Ok(stages.iter().map(|stage| stage.iter().map(ToString::to_string).collect()).collect())
    }

    #[test]
    fn services_stand_after_what_they_need_and_beside_what_they_do_not() {
        let shop: [(&str, &[&str]); 5] = [
            ("orders", &["users", "stock"]),
            ("stock", &[]),
            ("users", &["mail"]),
            ("mail", &[]),
            ("web", &["orders"]),
        ];
        let wanted: [&[&str]; 4] = [&["mail", "stock"], &["users"], &["orders"], &["web"]];
        assert_eq!(of(&shop).unwrap(), wanted);
        assert!(of(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_cycle_is_named_without_the_way_to_it() {
        assert_eq!(of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]).unwrap_err(), "needs form a cycle: b → c → b");
    }
}
