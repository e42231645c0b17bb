//! HTTP rules: how methods are called by REST, said beside their descriptors.
//!
//! Lives here: what a rule says, as `google.api.HttpRule` does, and its bounds. Does not: whether the method and the fields that it names exist
//! (`weft-transcode`), whose a path is (the registry's claims, the gateway's routes).
//! Invariants: a set of rules has one for each method at most; a rule stands in for everything that the method's annotation says.
//! Source: google/api/http.proto; differs: a selector is one method, no pattern of several.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use super::super::{few, is_identifier};
use crate::{Invalid, template::Template};

/// Bindings of one rule beyond its first at most.
const MOST_ADDITIONAL: usize = 32;
/// Longest template in bytes.
const LONGEST_TEMPLATE: usize = 1_024;
/// Longest selector in bytes.
const LONGEST_SELECTOR: usize = 512;

/// Rules, each about another method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRules(Vec<HttpRule>);

/// How one method is called by REST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    /// Which method.
    pub selector: Selector,
    /// How it is called.
    pub binding: HttpBinding,
    /// How else.
    pub additional: Vec<HttpBinding>,
}

/// Full name of a method: `package.Service.Method`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<str>);

/// One way to call a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpBinding {
    /// By which method of HTTP.
    pub kind: HttpKind,
    /// At which paths.
    pub template: Template,
    /// Which part of the request message the body is: a field, `*` for all of it, empty for none.
    pub body: FieldName,
    /// Which part of the reply the answer's body is: a field; empty or `*` for all of it.
    pub response_body: FieldName,
}

/// A method of HTTP in capitals, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpKind(Arc<str>);

/// A field by its name in the proto; `*` for the whole message, empty for none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldName(Arc<str>);

impl HttpRules {
    /// Accepts 1 to 256 rules about different methods.
    pub fn new(rules: Vec<HttpRule>) -> Result<Self, Invalid> {
        few("rules", rules.len())?;
        if rules.is_empty() {
            return Err(Invalid::new("rules", "has none; give one a selector and a path, like get: \"/users/{id}\""));
        }
        HttpRule::all_differ(&rules).map_err(|e| e.within("rules"))?;
        Ok(Self(rules))
    }

    /// The rules, as they were written.
    pub fn rules(&self) -> &[HttpRule] {
        &self.0
    }
}

impl HttpRule {
    /// Accepts at most 32 additional bindings.
    pub fn new(selector: Selector, binding: HttpBinding, additional: Vec<HttpBinding>) -> Result<Self, Invalid> {
        if additional.len() > MOST_ADDITIONAL {
            let problem = format!("has {} bindings, at most {MOST_ADDITIONAL} are allowed", additional.len());
            return Err(Invalid::new("additional_bindings", problem));
        }
        Ok(Self { selector, binding, additional })
    }

    /// Accepts rules that are about different methods.
    pub fn all_differ(rules: &[Self]) -> Result<(), Invalid> {
        let mut selectors = BTreeSet::new();
        match rules.iter().position(|it| !selectors.insert(&it.selector)) {
            None => Ok(()),
            Some(index) => Err(Invalid::new(
                format!("[{index}].selector"),
                format!(
                    "a second rule for {}; put its paths under additional_bindings of the first",
                    rules[index].selector
                ),
            )),
        }
    }

    /// All its bindings, the first one first.
    pub fn bindings(&self) -> impl Iterator<Item = &HttpBinding> {
        std::iter::once(&self.binding).chain(&self.additional)
    }
}

impl Selector {
    /// The method's full name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full name of its gRPC service.
    pub fn grpc_service(&self) -> &str {
        self.split().0
    }

    /// The method's own name.
    pub fn method(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('.').expect("a selector has a dot: checked where it is made")
    }
}

impl FromStr for Selector {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| Err(Invalid::new("", format!("{text:?} {why}; write package.Service.Method")));
        if text.len() > LONGEST_SELECTOR {
            return Err(Invalid::new("", format!("is longer than {LONGEST_SELECTOR} bytes")));
        }
        if text.contains('*') {
            return wrong("names several methods, and a rule is about one");
        }
        if text.contains('/') {
            return wrong("has a slash, as paths of gRPC do");
        }
        if !text.contains('.') || !text.split('.').all(is_identifier) {
            return wrong("is no full name of a method");
        }
        if text.starts_with("grpc.") {
            return Err(Invalid::new("", format!("{text:?} is of every server and not called by REST")));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HttpBinding {
    /// Reads a template, as the field of a rule that it stands in.
    pub fn template(text: &str) -> Result<Template, Invalid> {
        if text.len() > LONGEST_TEMPLATE {
            return Err(Invalid::new("", format!("is longer than {LONGEST_TEMPLATE} bytes")));
        }
        text.parse().map_err(|error| Invalid::new("", format!("{text:?} is no path template: {error}")))
    }

    /// The name by which its paths are claimed, `GET /api/users/*`.
    pub fn claim(&self) -> String {
        self.template.claim(self.kind.as_str())
    }
}

impl HttpKind {
    /// `GET`.
    pub const GET: &str = "GET";
    /// Those with a field of their own in a rule, and the field.
    pub const FIXED: [(&str, &str); 5] =
        [("get", Self::GET), ("put", "PUT"), ("post", "POST"), ("delete", "DELETE"), ("patch", "PATCH")];

    /// The method of a field of a rule, `get`; none: the field says another one, or none.
    pub fn of_field(field: &str) -> Option<Self> {
        Self::FIXED.into_iter().find(|(it, _)| *it == field).map(|(_, kind)| Self(kind.into()))
    }

    /// The method as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The field of a rule that says this method; none: `custom`.
    pub fn field(&self) -> Option<&'static str> {
        Self::FIXED.into_iter().find(|(_, kind)| *kind == self.as_str()).map(|(field, _)| field)
    }
}

impl FromStr for HttpKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_name =
            (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-' || b == b'_');
        if is_name || text == "*" {
            Ok(Self(text.to_ascii_uppercase().into()))
        } else {
            Err(Invalid::new("", format!("{text:?} is no method of HTTP, like HEAD, or * for any")))
        }
    }
}

impl FieldName {
    /// The name, `*`, or nothing.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FieldName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text == "*" || (text.len() <= LONGEST_SELECTOR && is_identifier(text)) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new("", format!("{text:?} is no name of a field of the message itself, and not *")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(template: &str) -> HttpBinding {
        HttpBinding {
            kind: "get".parse().unwrap(),
            template: HttpBinding::template(template).unwrap(),
            body: FieldName::default(),
            response_body: FieldName::default(),
        }
    }

    fn rule(selector: &str) -> HttpRule {
        HttpRule::new(selector.parse().unwrap(), binding("/a/{id}"), Vec::new()).unwrap()
    }

    #[test]
    fn a_selector_is_one_method_and_says_how_it_is_written() {
        let one: Selector = "shop.users.v1.Users.GetUser".parse().unwrap();
        assert_eq!((one.grpc_service(), one.method()), ("shop.users.v1.Users", "GetUser"));
        for wrong in ["", "GetUser", "a.B/C", "a.B.*", "*", ".a.B", "a..B", "a.B.", "a.1B", "a.B.ü"] {
            let error = wrong.parse::<Selector>().unwrap_err();
            assert!(error.problem().contains("write package.Service.Method"), "{wrong}: {error}");
        }
        assert!("grpc.health.v1.Health.Check".parse::<Selector>().is_err());
    }

    #[test]
    fn a_method_has_one_rule_and_few_bindings() {
        assert!(HttpRules::new(vec![rule("a.B.C"), rule("a.B.D")]).is_ok());
        let twice = HttpRules::new(vec![rule("a.B.C"), rule("a.B.C")]).unwrap_err();
        assert_eq!(twice.field(), "rules[1].selector");
        assert!(twice.problem().contains("additional_bindings"), "{twice}");
        assert_eq!(HttpRules::new(Vec::new()).unwrap_err().field(), "rules");
        let many = (0..257).map(|n| rule(&format!("a.B.C{n}"))).collect();
        assert_eq!(HttpRules::new(many).unwrap_err().field(), "rules");
        let many = vec![binding("/b"); 33];
        let error = HttpRule::new("a.B.C".parse().unwrap(), binding("/a"), many).unwrap_err();
        assert_eq!(error.field(), "additional_bindings");
    }

    #[test]
    fn a_binding_names_its_method_paths_and_fields() {
        assert_eq!(binding("/a/{id}").claim(), "GET /a/*");
        assert_eq!(binding("/a").kind.field(), Some("get"));
        let custom: HttpKind = "head".parse().unwrap();
        assert_eq!((custom.as_str(), custom.field()), ("HEAD", None));
        assert!("*".parse::<HttpKind>().is_ok());
        for wrong in ["", "GET /", "G*", "G\u{e9}T"] {
            assert!(wrong.parse::<HttpKind>().is_err(), "{wrong}");
        }
        let error = HttpBinding::template("users/{id}").unwrap_err();
        assert_eq!(error.problem(), "\"users/{id}\" is no path template: expected '/', found 'u' at column 1");
        assert!(HttpBinding::template(&format!("/{}", "a".repeat(1_024))).is_err());
        for (name, well) in
            [("", true), ("*", true), ("user_1", true), ("user.id", false), ("1", false), ("a b", false)]
        {
            assert_eq!(name.parse::<FieldName>().is_ok(), well, "{name}");
        }
    }
}
