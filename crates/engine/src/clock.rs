//! The system's wall clock.

use std::time::SystemTime;

use shunt_domain::Timestamp;
use shunt_domain::ports::Clock;

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from(SystemTime::now())
    }
}
