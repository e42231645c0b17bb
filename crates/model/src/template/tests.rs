//! Parsing, printing, and what is refused with which words.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Template {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn literal(text: &str) -> Segment {
    Segment::Literal(text.to_owned())
}

#[test]
fn variables_dissolve_into_flat_segments() {
    let template = parse("/v1/{name=shelves/*/books/**}/{nested.inner.id}:undelete");
    let expected =
        [literal("v1"), literal("shelves"), Segment::Star, literal("books"), Segment::DoubleStar, Segment::Star];
    assert_eq!(template.segments(), expected);
    assert_eq!(template.variables()[0].span, 1..5);
    assert_eq!(template.variables()[1].span, 5..6);
    assert_eq!(template.variables()[1].field_path, ["nested", "inner", "id"]);
    assert_eq!(template.verb(), Some("undelete"));
}

#[test]
fn the_root_is_a_template_of_no_segments() {
    assert_eq!(parse("/").segments(), []);
}

#[test]
fn only_the_last_colon_of_the_last_segment_starts_a_verb() {
    assert_eq!(parse("/a:b/c").segments(), [literal("a:b"), literal("c")]);
    assert_eq!(parse("/a:b/c").verb(), None);
    assert_eq!(parse("/a/b:c:d").segments()[1], literal("b:c"));
    assert_eq!(parse("/a/b:c:d").verb(), Some("d"));
    assert_eq!(parse("/a/{x=b:c}").segments()[1], literal("b:c"));
}

#[test]
fn a_variable_is_multi_segment_if_it_may_span_several() {
    let multi = |text: &str| {
        let template = parse(text);
        template.is_multi_segment(&template.variables()[0])
    };
    assert!(!multi("/{x}") && !multi("/{x=*}") && !multi("/{x=a}"));
    assert!(multi("/{x=**}") && multi("/{x=a/*}"));
}

#[test]
fn what_does_not_parse_says_what_and_where() {
    let table = [
        ("", "expected '/', found the end at column 1"),
        ("a", "expected '/', found 'a' at column 1"),
        ("//a", "expected a segment at column 2"),
        ("/a/", "expected a segment at column 4"),
        ("/a//b", "expected a segment at column 4"),
        ("/{}", "expected a field name at column 3"),
        ("/{1x}", "expected a field name at column 3"),
        ("/{a.}", "expected a field name at column 5"),
        ("/{a", "expected '}', found the end at column 4"),
        ("/{a=", "expected a segment at column 5"),
        ("/{a=}", "expected a segment at column 5"),
        ("/{a=b/{c}}", "a variable inside a variable is not allowed at column 7"),
        ("/{a}b", "expected '/', ':' or the end, found 'b' at column 5"),
        ("/b{a}", "'{' must be a segment of its own at column 3"),
        ("/b*", "'*' must be a segment of its own at column 3"),
        ("/***", "expected '/', ':' or the end, found '*' at column 4"),
        ("/**/a/**", "a template may have one '**' only at column 7"),
        ("/a}", "expected '/', ':' or the end, found '}' at column 3"),
        ("/a:", "expected a verb at column 4"),
        ("/a:b/c:", "expected a verb at column 8"),
        ("/{a}:b/c", "expected the end after the verb, found '/' at column 7"),
        ("/{a}:b:c", "a verb cannot contain ':' at column 7"),
        ("/a b", "' ' must be percent-encoded at column 3"),
        ("/a?b", "'?' must be percent-encoded at column 3"),
        ("/谷", "'谷' must be percent-encoded at column 2"),
        ("/a%2", "a '%' must be followed by two hexadecimal digits at column 3"),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Template>().unwrap_err().to_string(), expected, "{text:?}");
    }
}

/// Templates as text, in the form that `Display` prints.
fn templates() -> impl Strategy<Value = String> {
    let literal = "[a-z0-9._~!$&'()+,;=@-]{1,4}(%2F|%c3)?";
    let pattern = prop::collection::vec(prop_oneof![literal.prop_map(String::from), Just("*".to_owned())], 1..3);
    let field = "[a-z_][a-z0-9_]{0,3}(\\.[a-z_]{1,3})?";
    let variable = (field, pattern).prop_map(|(field, pattern)| match pattern.join("/").as_str() {
        "*" => format!("{{{field}}}"),
        pattern => format!("{{{field}={pattern}}}"),
    });
    let segment = prop_oneof![literal.prop_map(String::from), Just("*".to_owned()), variable];
    let rest = prop_oneof![Just(""), Just("/**"), Just("/{rest=**}"), Just("/{rest=a/**/b}"), Just("/**/tail")];
    let verb = prop::option::of("[a-z]{1,5}");
    (prop::collection::vec(segment, 1..5), rest, verb).prop_map(|(segments, rest, verb)| {
        let verb = verb.map(|it| format!(":{it}")).unwrap_or_default();
        format!("/{}{rest}{verb}", segments.join("/"))
    })
}

proptest! {
    #[test]
    fn a_template_prints_as_it_was_written(text in templates()) {
        let template: Template = text.parse().unwrap();
        prop_assert_eq!(template.to_string(), text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[/{}*=:.a-c%2 ]{0,16}") {
        if let Ok(template) = text.parse::<Template>() {
            prop_assert_eq!(template.to_string().parse::<Template>().unwrap(), template);
        }
    }
}

#[test]
fn templates_that_match_the_same_paths_have_one_claim() {
    let claim = |text: &str| parse(text).claim("GET");
    assert_eq!(claim("/api/users/{id}"), "GET /api/users/*");
    assert_eq!(claim("/api/users/{name}"), claim("/api/users/{user.id=*}"));
    assert_eq!(claim("/v1/{name=shelves/*/books/**}:undelete"), "GET /v1/shelves/*/books/**:undelete");
    assert_eq!(claim("/"), "GET /");
    assert_ne!(claim("/api/users/{id}"), claim("/api/users/{id=**}"));
    assert_eq!(parse("/api/users/*").claim("GET"), claim("/api/users/{id}"), "a claim can be read again");
}
