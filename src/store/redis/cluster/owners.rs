//! The owner of each slot, according to the present map.

use std::sync::Arc;

use super::{Node, Shared, State};
use crate::store::StoreError;
use crate::store::redis::config::Location;
use crate::store::redis::connection::Link;
use crate::store::redis::sentinel::Place;

impl Shared {
    /// Makes a survey if there is no map yet.
    pub(super) async fn mapped(self: &Arc<Self>) -> Result<(), String> {
        if self.lock().map.is_some() { Ok(()) } else { self.refresh().await }
    }

    /// Returns all primaries and the latest known change. Fails if a slot has no owner.
    pub(super) async fn primaries(self: &Arc<Self>) -> Result<(u64, Vec<Arc<Node>>), String> {
        self.mapped().await?;
        let find = || {
            let state = self.lock();
            let map = state.map.as_ref()?;
            let mut primaries: Vec<Arc<Node>> = Vec::new();
            for owner in &map.owners {
                let owner = owner.as_ref()?;
                if !primaries.iter().rev().any(|node| Arc::ptr_eq(node, owner)) {
                    primaries.push(Arc::clone(owner));
                }
            }
            Some((map.epoch, primaries))
        };
        if let Some(found) = find() {
            return Ok(found);
        }
        self.refresh().await?;
        find().ok_or_else(|| "some slots of the Cluster are served by nobody".to_owned())
    }

    pub(super) async fn owner(self: &Arc<Self>, slot: u16) -> Result<Arc<Node>, String> {
        let find = || self.lock().map.as_ref().and_then(|map| map.owners[usize::from(slot)].clone());
        if let Some(owner) = find() {
            return Ok(owner);
        }
        self.refresh().await?;
        find().ok_or_else(|| format!("slot {slot} of the Cluster is served by nobody"))
    }

    pub(in crate::store::redis) async fn groups(
        self: &Arc<Self>,
        doing: &'static str,
        slots: &[u16],
    ) -> Result<Vec<Vec<usize>>, StoreError> {
        let mut groups: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
        for (at, slot) in slots.iter().enumerate() {
            let owner = self.owner(*slot).await.map_err(|cause| StoreError::Unavailable { doing, cause })?;
            match groups.iter_mut().find(|(node, _)| Arc::ptr_eq(node, &owner)) {
                Some((_, group)) => group.push(at),
                None => groups.push((owner, vec![at])),
            }
        }
        Ok(groups.into_iter().map(|(_, group)| group).collect())
    }

    /// Returns the owner of a slot if it is another node than `node`.
    pub(super) async fn successor(self: &Arc<Self>, slot: u16, node: &Arc<Node>) -> Option<Arc<Node>> {
        let other = |owner: Arc<Node>| (!Arc::ptr_eq(&owner, node)).then_some(owner);
        // Another operation may have made the survey already.
        if let Some(owner) = self.owner(slot).await.ok().and_then(other) {
            return Some(owner);
        }
        self.refresh().await.ok()?;
        self.owner(slot).await.ok().and_then(other)
    }

    /// Returns the node at a place; it may have no slot yet.
    pub(super) fn node(&self, place: Place) -> Result<Arc<Node>, String> {
        let mut state = self.lock();
        if state.closed {
            return Err("the store is closed".to_owned());
        }
        Ok(self.node_of(&mut state, place))
    }

    pub(super) fn node_of(&self, state: &mut State, place: Place) -> Arc<Node> {
        if let Some(node) = state.nodes.iter().find(|node| node.place.is_same_server(&place)) {
            return Arc::clone(node);
        }
        let mut config = self.config.clone();
        config.location = Location::Server { host: place.host.clone(), port: place.port };
        let (access, clock) = (Arc::clone(&self.access), Arc::clone(&self.clock));
        let (random, tasks) = (Arc::clone(&self.random), Arc::clone(&self.tasks));
        let node = Arc::new(Node { place, link: Link::new(config, access, clock, random, tasks, None) });
        state.nodes.push(Arc::clone(&node));
        node
    }

    /// Changes the owner of one slot.
    pub(super) fn moved(&self, slot: u16, place: Place) -> Result<Arc<Node>, String> {
        let node = self.node(place)?;
        if let Some(map) = &mut self.lock().map {
            map.owners[usize::from(slot)] = Some(Arc::clone(&node));
        }
        Ok(node)
    }
}
