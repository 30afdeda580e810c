//! Who is next: first come, first served within a tenant, and between tenants the one that was served least.
//!
//! Each tenant has a counter of the tokens computed for it (the virtual token counter of Sheng et al. 2023,
//! "Fairness in Serving Large Language Models", arXiv 2401.00588, algorithm 2). A tenant that comes back after
//! a rest is lifted to the least counter of those that wait: rest is not saved up.

use std::collections::{HashMap, VecDeque};

/// An answer costs the machine more per token than a prompt does.
const ANSWER_WEIGHT: u64 = 2;

#[derive(Debug, Default)]
struct Tenant {
    served: u64,
    waiting: VecDeque<u64>,
    running: usize,
}

/// Requests that wait, by tenant.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    tenants: HashMap<String, Tenant>,
    waiting: usize,
}

impl FairQueue {
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// A new request, behind the others of its tenant.
    pub(super) fn push(&mut self, tenant: &str, id: u64) {
        self.join(tenant).waiting.push_back(id);
    }

    /// A request that ran and lost its place: before the others of its tenant.
    pub(super) fn push_front(&mut self, tenant: &str, id: u64) {
        let tenant = self.join(tenant);
        tenant.waiting.push_front(id);
        tenant.running -= 1;
    }

    fn join(&mut self, name: &str) -> &mut Tenant {
        self.waiting += 1;
        let busy = self.tenants.values().filter(|t| t.running > 0 || !t.waiting.is_empty());
        let least = busy.map(|tenant| tenant.served).min().unwrap_or(0);
        let tenant = self.tenants.entry(name.to_owned()).or_default();
        if tenant.waiting.is_empty() && tenant.running == 0 {
            tenant.served = tenant.served.max(least);
        }
        tenant
    }

    /// The requests in the order in which they should be tried: the heads of all tenants first.
    pub(super) fn candidates(&self) -> Vec<u64> {
        let mut tenants: Vec<(&String, &Tenant)> = self.tenants.iter().collect();
        tenants.retain(|(_, tenant)| !tenant.waiting.is_empty());
        tenants.sort_by_key(|(name, tenant)| (tenant.served, *name));
        let longest = tenants.iter().map(|(_, tenant)| tenant.waiting.len()).max().unwrap_or(0);
        let turn = |place: usize| tenants.iter().filter_map(move |(_, t)| t.waiting.get(place).copied());
        (0..longest).flat_map(turn).collect()
    }

    /// Takes a request out of the queue because it runs now, or not at all.
    pub(super) fn remove(&mut self, tenant: &str, id: u64, runs: bool) -> bool {
        let Some(entry) = self.tenants.get_mut(tenant) else { return false };
        let Some(place) = entry.waiting.iter().position(|&other| other == id) else { return false };
        entry.waiting.remove(place);
        self.waiting -= 1;
        if runs {
            entry.running += 1;
        }
        self.forget_idle(tenant);
        true
    }

    /// A running request ended.
    pub(super) fn ended(&mut self, tenant: &str) {
        if let Some(entry) = self.tenants.get_mut(tenant) {
            entry.running -= 1;
        }
        self.forget_idle(tenant);
    }

    /// Counts what was computed for a tenant.
    pub(super) fn serve(&mut self, tenant: &str, prompt_tokens: usize, answer_tokens: usize) {
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.served += prompt_tokens as u64 + ANSWER_WEIGHT * answer_tokens as u64;
        }
    }

    /// A tenant at rest is worth remembering only while it is ahead of others.
    fn forget_idle(&mut self, name: &str) {
        let idle = |tenant: &Tenant| tenant.running == 0 && tenant.waiting.is_empty();
        if self.tenants.values().all(idle) {
            self.tenants.clear();
            return;
        }
        let least = self.tenants.values().filter(|t| !idle(t)).map(|t| t.served).min().unwrap_or(0);
        if self.tenants.get(name).is_some_and(|tenant| idle(tenant) && tenant.served <= least) {
            self.tenants.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs everything one at a time and tells whose turn it was.
    fn order(queue: &mut FairQueue, of: &HashMap<u64, &str>, tokens: impl Fn(u64) -> usize) -> String {
        let mut turns = String::new();
        while let Some(&id) = queue.candidates().first() {
            let tenant = of[&id];
            assert!(queue.remove(tenant, id, true));
            queue.serve(tenant, tokens(id), 0);
            queue.ended(tenant);
            turns.push_str(tenant);
        }
        assert_eq!(queue.len(), 0);
        turns
    }

    #[test]
    fn a_tenant_with_many_requests_does_not_delay_another() {
        let mut queue = FairQueue::default();
        let mut of = HashMap::new();
        for id in 0..6 {
            queue.push("a", id);
            of.insert(id, "a");
        }
        queue.push("b", 6);
        queue.push("b", 7);
        of.extend([(6, "b"), (7, "b")]);
        assert_eq!(order(&mut queue, &of, |_| 100), "ababaaaa");
    }

    #[test]
    fn long_requests_count_for_more() {
        let mut queue = FairQueue::default();
        let mut of = HashMap::new();
        for id in 0..4 {
            queue.push("a", id);
            queue.push("b", 10 + id);
            of.extend([(id, "a"), (10 + id, "b")]);
        }
        assert_eq!(order(&mut queue, &of, |id| if id < 10 { 300 } else { 100 }), "abbbabaa");
    }

    #[test]
    fn rest_is_not_saved_up() {
        let mut queue = FairQueue::default();
        queue.push("a", 0);
        queue.remove("a", 0, true);
        queue.serve("a", 1000, 0);
        queue.push("a", 1);
        queue.push("b", 2);
        queue.push("b", 3);
        queue.remove("b", 2, true);
        queue.serve("b", 10, 0);
        assert_eq!(queue.candidates(), [1, 3], "b began where a stood");
    }

    #[test]
    fn what_lost_its_place_comes_first_again_and_what_left_is_forgotten() {
        let mut queue = FairQueue::default();
        queue.push("a", 0);
        queue.push("a", 1);
        queue.remove("a", 0, true);
        queue.push_front("a", 0);
        assert_eq!(queue.candidates(), [0, 1]);
        assert!(queue.remove("a", 0, false) && !queue.remove("a", 0, false));
        assert!(queue.remove("a", 1, true));
        queue.ended("a");
        assert!(queue.tenants.is_empty());
    }
}
