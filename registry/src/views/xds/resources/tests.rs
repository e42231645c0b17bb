//! Resources of any mesh, for clients of any sort: what clients demand of them holds, and what the mesh promises comes out.
//!
//! Lives here: any mesh, the rules on all of its resources, the cases that matter one by one. Does not: clients themselves (`tests/e2e`).

mod any_mesh;
mod cases;
mod knockouts;
mod policies;
pub(crate) mod rules;
