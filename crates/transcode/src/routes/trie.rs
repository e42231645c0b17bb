//! A tree of template segments with backtracking.
//!
//! Lives here: claiming a shape, walking a path in order of precedence. Does not: paths, verbs or methods beyond
//! carrying them.
//! Assumes at most one `**` per template (`template` refuses more), so a walk visits each node at most once per start
//! of the `**`: the cost is bounded by the size of the tree times the length of the path, and the recursion by the
//! longest template.

use std::collections::HashMap;

use crate::template::Segment;

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, usize>,
    star: Option<usize>,
    double_star: Option<usize>,
    claims: Vec<Claim>,
}

/// A binding that ends at a node.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) verb: Option<String>,
    pub(super) http_method: String,
    pub(super) route: usize,
}

impl Trie {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// Claims the paths of a template; if they are taken for that verb and HTTP method, returns the route that has
    /// them.
    pub(super) fn claim(&mut self, segments: &[Segment], claim: Claim) -> Result<(), usize> {
        let mut at = 0;
        for segment in segments {
            let fresh = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text.clone()).or_insert(fresh),
                Segment::Star => *node.star.get_or_insert(fresh),
                Segment::DoubleStar => *node.double_star.get_or_insert(fresh),
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
        }
        let claims = &mut self.nodes[at].claims;
        if let Some(holder) = claims.iter().find(|it| it.verb == claim.verb && it.http_method == claim.http_method) {
            return Err(holder.route);
        }
        claims.push(claim);
        Ok(())
    }

    /// Shows `accept` the claims of every template that matches, most specific first, until it takes one.
    pub(super) fn find<'t>(
        &'t self,
        segments: &[&str],
        mut accept: impl FnMut(&'t [Claim]) -> Option<usize>,
    ) -> Option<usize> {
        self.walk(0, segments, &mut accept)
    }

    fn walk<'t>(
        &'t self,
        at: usize,
        rest: &[&str],
        accept: &mut impl FnMut(&'t [Claim]) -> Option<usize>,
    ) -> Option<usize> {
        let node = &self.nodes[at];
        let here = match rest {
            [] => accept(&node.claims),
            [first, rest @ ..] => {
                let literal = node.literals.get(*first).and_then(|it| self.walk(*it, rest, accept));
                literal.or_else(|| node.star.and_then(|it| self.walk(it, rest, accept)))
            }
        };
        here.or_else(|| {
            let double = node.double_star?;
            (0..=rest.len()).find_map(|taken| self.walk(double, &rest[taken..], accept))
        })
    }
}
