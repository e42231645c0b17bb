//! Claims: whose the name of a gRPC service or of a REST template is.
//!
//! Lives here: claiming, an operator's moves and releases, ends of claims that nobody declares. Does not: what a set declares (`schema`), who is
//! told of a refusal (derived: `state`), which sets are still there (`forget`).
//! The first service to declare a name has it. A claim that the holder's instances do not declare any more ends with the last stored set of
//! the holder that did; that of a service without instances stays, however long it is away; one that an operator gave ends by an operator's word.
//! The templates of a gRPC service go with its name.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use weft_model::{Digest, Epoch, ServiceName};

use super::{Draft, Outcome};
use crate::{
    catalog::{change::ChangeError, state::Claim},
    schema::DescriptorSet,
};

impl Draft<'_> {
    /// Claims for a service what its set declares and nobody has.
    pub(super) fn claim(&mut self, service: &ServiceName, set: &DescriptorSet) {
        for grpc in &set.services {
            if !self.take(&grpc.name, service) {
                continue; // its methods are not routed to this service, so neither are their templates
            }
            for template in set.templates_of(&grpc.name) {
                self.take(&template.claim, service);
            }
        }
    }

    /// Returns whether the service has the name now.
    fn take(&mut self, name: &str, service: &ServiceName) -> bool {
        if let Some(claim) = self.next.claims.get(name) {
            return claim.holder == *service;
        }
        self.give(name.to_owned(), Claim { holder: service.clone(), placed: false });
        true
    }

    fn give(&mut self, name: String, claim: Claim) {
        self.claimed = true;
        self.next.claims.insert(name.clone(), claim);
        self.done.durable.claims.insert(name);
    }

    fn end(&mut self, name: &str) {
        self.next.claims.remove(name);
        self.done.durable.claims.insert(name.to_owned());
    }

    pub(super) fn move_claim(&mut self, name: String, to: &ServiceName) -> Result<Outcome, ChangeError> {
        let from = self.next.claims.get(&name).map(|claim| claim.holder.clone());
        let names = match &from {
            Some(from) if from != to => self.with_templates(&name, from),
            Some(_) | None => vec![name],
        };
        for name in &names {
            self.give(name.clone(), Claim { holder: to.clone(), placed: true });
        }
        self.settle_claims();
        Ok(Outcome { claims: names, ..Outcome::NOBODY })
    }

    pub(super) fn release_claim(&mut self, name: String) -> Result<Outcome, ChangeError> {
        let Some(Claim { holder, .. }) = self.next.claims.get(&name).cloned() else {
            return Err(ChangeError::Unclaimed(name));
        };
        if self.next.sets_of(&holder).iter().any(|set| self.would_claim(&holder, set, &name)) {
            return Err(ChangeError::Declared { name, holder });
        }
        let names = self.with_templates(&name, &holder);
        names.iter().for_each(|name| self.end(name));
        self.settle_claims();
        self.let_go(&holder);
        Ok(Outcome { claims: names, ..Outcome::NOBODY })
    }

    /// Whether a set of the holder would claim the name again: a template of a gRPC service that belongs to others would not.
    fn would_claim(&self, holder: &ServiceName, set: &DescriptorSet, name: &str) -> bool {
        set.services
            .iter()
            .filter(|grpc| self.next.holds(holder, &grpc.name))
            .any(|grpc| grpc.name == name || set.templates_of(&grpc.name).any(|template| template.claim == name))
    }

    /// The name, and the templates that its holder has by it alone, as far as a stored set of anybody still tells them: that of a holder which
    /// is gone may live on with another service.
    fn with_templates(&self, name: &str, holder: &ServiceName) -> Vec<String> {
        let sets = self.stored_sets_of(holder);
        let others = sets.iter().flat_map(|set| &set.templates).filter(|it| it.service != name);
        let others: HashSet<&str> = others.map(|it| it.claim.as_str()).collect();
        let own = self.next.sets.values().flat_map(|set| &set.templates).filter(|it| it.service == name);
        let own = own.map(|it| it.claim.as_str()).filter(|claim| !others.contains(claim));
        let own: BTreeSet<&str> = own.filter(|claim| self.next.holds(holder, claim)).collect();
        std::iter::once(name).chain(own).map(str::to_owned).collect()
    }

    /// The sets that instances of a service carry, or carried last.
    fn stored_sets_of(&self, service: &ServiceName) -> Vec<Arc<DescriptorSet>> {
        let mut sets = self.next.sets_of(service);
        let retired = self.next.retired.iter().filter(|(_, it)| it.service.as_ref() == Some(service));
        sets.extend(retired.filter_map(|(digest, _)| self.next.sets.get(digest).cloned()));
        sets
    }

    /// Names may have become free, or somebody else's: who declares a free one gets it, and what is told of every service is worked out anew.
    fn settle_claims(&mut self) {
        self.claim_all();
        self.recount_all();
    }

    /// Ends what nobody declares, and claims what a store from before templates were claimed knows nothing of.
    pub(super) fn review_claims(&mut self) {
        let before = self.next.claims.clone();
        self.end_undeclared_claims();
        self.claim_all();
        if !before.ptr_eq(&self.next.claims) {
            self.recount_all();
        }
    }

    /// Whoever registered first claims first.
    fn claim_all(&mut self) {
        let mut first: BTreeMap<(&ServiceName, Digest), Epoch> = BTreeMap::new();
        for it in self.next.records.values().map(|it| &it.instance) {
            let Some(digest) = it.descriptors else { continue };
            let epoch = first.entry((&it.service, digest)).or_insert(it.epoch);
            *epoch = it.epoch.min(*epoch);
        }
        let mut carriers: Vec<_> =
            first.into_iter().map(|((service, digest), epoch)| (epoch, service.clone(), digest)).collect();
        carriers.sort();
        for (_, service, digest) in carriers {
            if let Some(set) = self.next.sets.get(&digest).cloned() {
                self.claim(&service, &set);
            }
        }
    }

    fn recount_all(&mut self) {
        let listed: Vec<ServiceName> = self.next.snapshot.services.keys().cloned().collect();
        for name in listed {
            self.service(&name);
            self.recount.insert(name);
        }
    }

    /// Ends the claims that no stored set of their holder declares, unless the holder is away, or does not say what it offers.
    fn end_undeclared_claims(&mut self) {
        let holders: BTreeSet<ServiceName> =
            self.next.claims.values().filter(|claim| !claim.placed).map(|claim| claim.holder.clone()).collect();
        let mut over = Vec::new();
        for holder in holders.into_iter().filter(|holder| self.says_what_it_offers(holder)) {
            let sets = self.stored_sets_of(&holder);
            let declared: BTreeSet<&str> = sets.iter().flat_map(|set| set.names()).collect();
            let own = self.next.claims.iter().filter(|(_, claim)| claim.holder == holder && !claim.placed);
            over.extend(own.map(|(name, _)| name.clone()).filter(|name| !declared.contains(name.as_str())));
        }
        for name in &over {
            tracing::info!(name, "a claim ended: no set of its holder declares it any more");
            self.end(name);
        }
    }

    fn says_what_it_offers(&self, service: &ServiceName) -> bool {
        let Some(service) = self.next.snapshot.services.get(service) else { return false };
        let known = |digest| self.next.sets.contains_key(&digest);
        !service.instances.is_empty() && service.instances.values().all(|it| it.descriptors.is_some_and(known))
    }
}
