//! Small pieces that the engine's own tests share.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use shunt_domain::ports::{BoxFuture, Clock, LinkReader};
use shunt_domain::{
    Code, Deadline, DomainId, Link, LinkKey, NewLink, OwnerId, RedirectStatus, StoreError, Stored,
    Target, TargetRules, Timestamp, Version,
};
use tokio::sync::Notify;

/// A plain link on the default domain.
pub(crate) fn link(code: &str, target: &str) -> Link {
    let data = NewLink {
        key: LinkKey::new(DomainId::DEFAULT, Code::parse(code).unwrap()),
        target: Target::parse(target, &TargetRules::default()).unwrap(),
        title: None,
        tags: Vec::new(),
        owner: OwnerId::ANONYMOUS,
        created_at: Timestamp::from_millis(1),
        valid_from: None,
        expires_at: None,
        max_clicks: None,
        status: RedirectStatus::Found,
        forward_query: false,
        enabled: true,
    };
    Link { data, version: Version::FIRST, updated_at: Timestamp::from_millis(1), used: 0 }
}

/// A clock that is set by hand.
#[derive(Debug, Default)]
pub(crate) struct ManualClock(pub(crate) AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A reader over a map whose answers can be held back after they were read.
#[derive(Default)]
pub(crate) struct GatedReader {
    pub(crate) rows: Mutex<HashMap<LinkKey, Stored>>,
    pub(crate) reads: AtomicU64,
    pub(crate) failing: std::sync::atomic::AtomicBool,
    /// When set, a read waits here between reading and answering.
    pub(crate) gate: Mutex<Option<std::sync::Arc<Notify>>>,
    pub(crate) at_gate: Notify,
}

impl GatedReader {
    pub(crate) fn put(&self, link: &Link) {
        self.rows.lock().unwrap().insert(link.key().clone(), Stored::Link(Box::new(link.clone())));
    }
}

impl LinkReader for GatedReader {
    fn get<'a>(
        &'a self,
        key: &'a LinkKey,
        _min_version: Version,
        _deadline: Deadline,
    ) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.failing.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable("cut".into()));
            }
            let row = self.rows.lock().unwrap().get(key).cloned();
            let gate = self.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                self.at_gate.notify_one();
                gate.notified().await;
            }
            Ok(row)
        })
    }
}
