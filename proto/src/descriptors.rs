//! Raw descriptor sets: encoded `google.protobuf.FileDescriptorSet` with imports and comments, custom options intact.
//!
//! Lives here: the bytes as the build script wrote them. Does not: parsing (readers choose their own pool).

/// `weft.registry.v1` and what it imports.
pub const REGISTRY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.registry.v1.binpb"));
/// `weft.registry.v1.Identity` and what it imports.
pub const IDENTITY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.registry.v1.identity.binpb"));
/// `weft.discovery.v1` and what it imports.
pub const DISCOVERY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.discovery.v1.binpb"));
/// `weft.up.v1`.
pub const UP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.up.v1.binpb"));
/// `weft.testkit.v1` and what it imports.
pub const TESTKIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.testkit.v1.binpb"));
/// `shop.users.v1` and what it imports.
pub const SHOP_USERS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shop.users.v1.binpb"));
