//! The contract: generated types of `proto/**/*.proto`, raw descriptor sets, conversions to `weft-model`.
//!
//! Lives here: everything that must change when a `.proto` file changes. Does not: logic.
//! Generated code is exempt from our lints here and nowhere else.
#![forbid(unsafe_code)]

pub mod codec;
mod convert;
pub mod descriptors;
mod policy;

pub use convert::{directory_entry, service_update_full};
pub use policy::{service_policies, stored_policies};

#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "prost copies the comments of the .proto files, but not onto everything it makes; tonic writes `allow`"
)]
mod generated {
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod google {
        pub mod api {
            tonic::include_proto!("google.api");
        }
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
    pub mod weft {
        pub mod model {
            pub mod v1 {
                tonic::include_proto!("weft.model.v1");
            }
        }
        pub mod policy {
            pub mod v1 {
                tonic::include_proto!("weft.policy.v1");
            }
        }
        pub mod registry {
            pub mod v1 {
                tonic::include_proto!("weft.registry.v1");
            }
        }
        pub mod discovery {
            pub mod v1 {
                tonic::include_proto!("weft.discovery.v1");
            }
        }
        pub mod up {
            pub mod v1 {
                tonic::include_proto!("weft.up.v1");
            }
        }
        pub mod testkit {
            pub mod v1 {
                tonic::include_proto!("weft.testkit.v1");
            }
        }
    }
    pub mod shop {
        pub mod users {
            pub mod v1 {
                tonic::include_proto!("shop.users.v1");
            }
        }
        pub mod posts {
            pub mod v1 {
                tonic::include_proto!("shop.posts.v1");
            }
        }
        pub mod comments {
            pub mod v1 {
                tonic::include_proto!("shop.comments.v1");
            }
        }
        pub mod ring {
            pub mod v1 {
                tonic::include_proto!("shop.ring.v1");
            }
        }
    }
}

pub use generated::{etcdserverpb, google, mvccpb, shop, weft};
