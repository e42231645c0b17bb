//! Descriptor sets: what a service's reflection said, named by its digest, fetched from and stored in the registry.
//!
//! Lives here: the two calls. Does not: the digest rule (`weft-proto`), reading reflection (`weft-sidecar`), linking and meaning (gateway,
//! registry).
//! The files stay raw bytes all the way: a typed `FileDescriptorSet` drops custom options such as `google.api.http`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tonic::Request;
use weft_model::{Digest, InstanceId, ServiceName};
use weft_proto::descriptors::{self, BadFiles, File};
use weft_proto::weft::discovery::v1::{self as discovery, discovery_client::DiscoveryClient};
use weft_proto::weft::registry::v1::{self as registry, registry_client::RegistryClient};

use crate::{CallError, Registries};

/// A set is larger than any single message of the control plane; the registry's own bound is below this.
const MAX_MESSAGE: usize = 64 << 20;

/// The files of a service, dependencies included, each once, sorted by name.
#[derive(Debug, Clone, PartialEq)]
pub struct DescriptorSet {
    files: BTreeMap<String, File>,
    /// Empty: all in them.
    served: BTreeSet<String>,
    digest: Digest,
}

/// The bytes are no descriptor set.
#[derive(Debug, thiserror::Error)]
pub enum BadDescriptors {
    /// They are no encoded `FileDescriptorSet`.
    #[error("not a file descriptor set")]
    Encoding(#[source] prost::DecodeError),
    /// A file cannot be read.
    #[error("file {index} of the set is no FileDescriptorProto")]
    File {
        /// Its place, from 0.
        index: usize,
        /// Why not.
        source: prost::DecodeError,
    },
    /// Two files of one name differ.
    #[error("the set has two files named {name:?} that differ")]
    Clash {
        /// The name.
        name: String,
    },
    /// The set's bytes do not have the digest they were asked by.
    #[error("asked for descriptor set {asked}, got {got}")]
    Other {
        /// The digest asked for.
        asked: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// The registry did not give it.
    #[error("fetching descriptors")]
    Call(#[source] CallError),
}

impl From<BadFiles> for BadDescriptors {
    fn from(bad: BadFiles) -> Self {
        match bad {
            BadFiles::Garbled { index, source } => Self::File { index, source },
            BadFiles::Clash { name } => Self::Clash { name },
        }
    }
}

impl DescriptorSet {
    /// Returns the set of these encoded `FileDescriptorProto`s, in any order. All services in them are taken to be served.
    pub fn new(files: impl IntoIterator<Item = Bytes>) -> Result<Self, BadDescriptors> {
        let (files, served) = (descriptors::by_name(files)?, BTreeSet::new());
        let digest = descriptors::digest(&files, &served);
        Ok(Self { files, served, digest })
    }

    /// Says which services are served; the others are in the files because something is imported. No name means all.
    #[must_use]
    pub fn serving(self, names: impl IntoIterator<Item = String>) -> Self {
        let (files, served) = (self.files, names.into_iter().collect());
        let digest = descriptors::digest(&files, &served);
        Self { files, served, digest }
    }

    /// Says that those services are served which are in files that no other file imports: the best guess where nobody can be asked.
    #[must_use]
    pub fn serving_roots(self) -> Self {
        let imported: BTreeSet<&String> = self.files.values().flat_map(|file| &file.typed.dependency).collect();
        let roots = self.files.iter().filter(|(name, _)| !imported.contains(name));
        let served: Vec<String> = roots.flat_map(|(_, file)| descriptors::services(&file.typed)).collect();
        self.serving(served)
    }

    /// Reads an encoded `FileDescriptorSet`, for example from `protoc -o` with `--include_imports`, without losing options.
    pub fn from_encoded_set(bytes: &[u8]) -> Result<Self, BadDescriptors> {
        Self::new(descriptors::split(bytes).map_err(BadDescriptors::Encoding)?)
    }

    /// Its name in the registry.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The files, sorted by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.files.values().map(|file| &file.bytes)
    }

    /// Returns the full names of the gRPC services that are served, sorted.
    pub fn services(&self) -> Vec<String> {
        if !self.served.is_empty() {
            return self.served.iter().cloned().collect();
        }
        let mut names: Vec<String> =
            self.files.values().flat_map(|File { typed, .. }| descriptors::services(typed)).collect();
        names.sort_unstable();
        names
    }
}

impl Registries {
    /// Returns a descriptor set of `service`: the one named by `digest`, or the newest that a ready instance carries. NOT_FOUND is a
    /// [`CallError::Refused`].
    pub async fn descriptors(
        &self,
        service: &ServiceName,
        digest: Option<Digest>,
        within: Duration,
    ) -> Result<DescriptorSet, BadDescriptors> {
        let ask = discovery::DescriptorsRequest {
            service: service.full().to_owned(),
            digest: digest.map(|digest| Bytes::copy_from_slice(&digest.0)).unwrap_or_default(),
        };
        let answer = self
            .call(within, |channel| {
                let ask = Request::new(ask.clone());
                async move {
                    let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
                    client.descriptors(ask).await
                }
            })
            .await
            .map_err(BadDescriptors::Call)?;
        let answer = answer.into_inner();
        let set = DescriptorSet::new(answer.files)?.serving(answer.services);
        match digest {
            Some(asked) if asked != set.digest => Err(BadDescriptors::Other { asked, got: set.digest }),
            Some(_) | None => Ok(set),
        }
    }

    /// Makes sure that the registry has this set: asks whether it lacks it, and sends it then, in the name of the instance that offers it. A
    /// set that does not link is refused with file and symbol.
    pub async fn store_descriptors(
        &self,
        set: &DescriptorSet,
        instance: &InstanceId,
        service: &ServiceName,
        within: Duration,
    ) -> Result<(), CallError> {
        let deadline = tokio::time::Instant::now() + within;
        let ask = registry::MissingDescriptorsRequest { digests: vec![Bytes::copy_from_slice(&set.digest.0)] };
        let missing = self
            .call(within, |channel| {
                let ask = ask.clone();
                async move { RegistryClient::new(channel).missing_descriptors(ask).await }
            })
            .await?
            .into_inner();
        if missing.digests.is_empty() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.call(left, |channel| {
            let put = registry::PutDescriptorsRequest {
                files: set.files().cloned().collect(),
                instance: instance.to_string(),
                service: service.full().to_owned(),
                services: set.served.iter().cloned().collect(),
            };
            async move {
                let mut client = RegistryClient::new(channel).max_encoding_message_size(MAX_MESSAGE);
                client.put_descriptors(put).await
            }
        })
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> DescriptorSet {
        DescriptorSet::from_encoded_set(weft_proto::descriptors::SHOP_USERS).unwrap()
    }

    #[test]
    fn a_set_names_its_services_and_keeps_custom_options() {
        let set = users();
        assert_eq!(set.services(), ["shop.users.v1.Users"]);
        let http = b"/api/users";
        assert!(set.files().any(|file| file.windows(http.len()).any(|window| window == http)));
    }

    #[test]
    fn the_files_that_nobody_imports_say_what_is_served() {
        let foreign = DescriptorSet::from_encoded_set(weft_proto::descriptors::FOREIGN).unwrap();
        assert_eq!(foreign.services(), ["weft.testkit.v1.Echo", "weft.testkit.v1.Foreign"]);
        let (all, roots) = (foreign.digest(), foreign.serving_roots());
        assert_eq!(roots.services(), ["weft.testkit.v1.Foreign"]);
        assert_ne!(roots.digest(), all);
        assert_eq!(roots.serving([]).digest(), all);
    }
}
