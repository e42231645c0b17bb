//! Conversions of HTTP rules.
//!
//! Lives here: into the model with the field path of what is wrong, `From` back. Does not: other kinds (`policy`, `policy::edge`).

use model::Invalid;
use weft_model as model;

use super::edge::indexed;
use crate::{
    google::api::{self, http_rule::Pattern},
    weft::policy::v1 as pb,
};

pub(super) fn http(it: pb::Http) -> Result<model::PolicyKind, Invalid> {
    let rules = model::HttpRules::new(indexed("rules", it.rules, |_, it| it.try_into())?)?;
    Ok(model::PolicyKind::Edge(model::Edge::Http(rules)))
}

impl TryFrom<api::HttpRule> for model::HttpRule {
    type Error = Invalid;

    fn try_from(mut it: api::HttpRule) -> Result<Self, Invalid> {
        let selector = it.selector.parse().map_err(|e: Invalid| e.within("selector"))?;
        let additional = indexed("additional_bindings", std::mem::take(&mut it.additional_bindings), |_, it| {
            if !it.selector.is_empty() {
                return Err(Invalid::new("selector", "is that of the rule: leave it out"));
            }
            if !it.additional_bindings.is_empty() {
                return Err(Invalid::new("additional_bindings", "goes one level deep: put them beside this one"));
            }
            binding(it)
        })?;
        Self::new(selector, binding(it)?, additional)
    }
}

fn binding(it: api::HttpRule) -> Result<model::HttpBinding, Invalid> {
    let fixed = |field: &str, path: &str| {
        let kind = model::HttpKind::of_field(field).expect("a constant that is one of the fields");
        Ok((kind, model::HttpBinding::template(path).map_err(|e| e.within(field))?))
    };
    let (kind, template) = match it.pattern {
        Some(Pattern::Get(path)) => fixed("get", &path)?,
        Some(Pattern::Put(path)) => fixed("put", &path)?,
        Some(Pattern::Post(path)) => fixed("post", &path)?,
        Some(Pattern::Delete(path)) => fixed("delete", &path)?,
        Some(Pattern::Patch(path)) => fixed("patch", &path)?,
        Some(Pattern::Custom(it)) => (
            it.kind.parse().map_err(|e: Invalid| e.within("custom.kind"))?,
            model::HttpBinding::template(&it.path).map_err(|e| e.within("custom.path"))?,
        ),
        None => return Err(Invalid::new("pattern", "set one of get, put, post, delete, patch, custom")),
    };
    Ok(model::HttpBinding {
        kind,
        template,
        body: it.body.parse().map_err(|e: Invalid| e.within("body"))?,
        response_body: it.response_body.parse().map_err(|e: Invalid| e.within("response_body"))?,
    })
}

impl From<&model::HttpRules> for pb::Http {
    fn from(it: &model::HttpRules) -> Self {
        let rule = |it: &model::HttpRule| api::HttpRule {
            selector: it.selector.to_string(),
            additional_bindings: it.additional.iter().map(Into::into).collect(),
            ..(&it.binding).into()
        };
        Self { rules: it.rules().iter().map(rule).collect() }
    }
}

impl From<&model::HttpBinding> for api::HttpRule {
    fn from(it: &model::HttpBinding) -> Self {
        let path = it.template.to_string();
        let pattern = match it.kind.field() {
            Some("get") => Pattern::Get(path),
            Some("put") => Pattern::Put(path),
            Some("post") => Pattern::Post(path),
            Some("delete") => Pattern::Delete(path),
            Some("patch") => Pattern::Patch(path),
            Some(_) | None => Pattern::Custom(api::CustomHttpPattern { kind: it.kind.as_str().to_owned(), path }),
        };
        let (body, response_body) = (it.body.as_str().to_owned(), it.response_body.as_str().to_owned());
        Self { pattern: Some(pattern), body, response_body, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(selector: &str, pattern: Pattern) -> api::HttpRule {
        api::HttpRule { selector: selector.into(), pattern: Some(pattern), ..api::HttpRule::default() }
    }

    fn policy() -> pb::Policy {
        let custom = api::CustomHttpPattern { kind: "HEAD".into(), path: "/a/{it.id=x/**}:see".into() };
        let first = api::HttpRule {
            body: "*".into(),
            response_body: "it".into(),
            additional_bindings: vec![
                rule("", Pattern::Get("/a/{id}".into())),
                api::HttpRule { body: "it".into(), ..rule("", Pattern::Patch("/a".into())) },
                rule("", Pattern::Custom(custom)),
            ],
            ..rule("a.B.C", Pattern::Post("/a".into()))
        };
        let rules = vec![first, rule("a.B.D", Pattern::Put("/d".into())), rule("a.B.E", Pattern::Delete("/e".into()))];
        let kind = Some(pb::policy::Kind::Http(pb::Http { rules }));
        pb::Policy { name: "paths".into(), service: "users.default".into(), version: 7, kind }
    }

    #[test]
    fn rules_survive_the_way_through_the_model() {
        assert_eq!(pb::Policy::from(&model::Policy::try_from(policy()).unwrap()), policy());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let broken = |breaking: fn(&mut api::HttpRule)| {
            let mut it = policy();
            let Some(pb::policy::Kind::Http(http)) = &mut it.kind else { panic!("it is of http") };
            breaking(&mut http.rules[0]);
            model::Policy::try_from(it).unwrap_err().field().to_owned()
        };
        assert_eq!(broken(|it| it.selector = "a.B/C".into()), "http.rules[0].selector");
        assert_eq!(broken(|it| it.selector = "a.B.D".into()), "http.rules[1].selector");
        assert_eq!(broken(|it| it.pattern = None), "http.rules[0].pattern");
        assert_eq!(broken(|it| it.pattern = Some(Pattern::Get("/a/{".into()))), "http.rules[0].get");
        assert_eq!(broken(|it| it.body = "a.b".into()), "http.rules[0].body");
        assert_eq!(broken(|it| it.response_body = "1".into()), "http.rules[0].response_body");
        let of = "http.rules[0].additional_bindings";
        assert_eq!(broken(|it| it.additional_bindings[1].selector = "a.B.X".into()), format!("{of}[1].selector"));
        let nested = broken(|it| it.additional_bindings[0].additional_bindings = vec![api::HttpRule::default()]);
        assert_eq!(nested, format!("{of}[0].additional_bindings"));
        let custom = |kind: &str| Some(Pattern::Custom(api::CustomHttpPattern { kind: kind.into(), path: "a".into() }));
        let mut it = rule("a.B.C", Pattern::Get("/".into()));
        it.pattern = custom("");
        assert_eq!(model::HttpRule::try_from(it.clone()).unwrap_err().field(), "custom.kind");
        it.pattern = custom("HEAD");
        assert_eq!(model::HttpRule::try_from(it).unwrap_err().field(), "custom.path");
        let none = pb::Policy { kind: Some(pb::policy::Kind::Http(pb::Http::default())), ..policy() };
        assert_eq!(model::Policy::try_from(none).unwrap_err().field(), "http.rules");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let later = api::HttpRule { pattern: None, ..rule("a.B.C", Pattern::Get("/".into())) };
        let kind = Some(pb::policy::Kind::Http(pb::Http { rules: vec![later] }));
        let said = crate::weft::discovery::v1::ServicePolicies { policies: vec![pb::Policy { kind, ..policy() }] };
        let (read, problems) = super::super::stored_policies(&"users".parse().unwrap(), said);
        assert_eq!((read.len(), problems.len()), (0, 1));
    }
}
