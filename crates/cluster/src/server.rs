//! What every server of the kit can have done to it, whatever it is.

use anyhow::Result;

use crate::process::Process;
use crate::{Haproxy, PgBouncer, Postgres, Redis, Shunt, Tansu};

/// A server that can be killed, frozen and brought back.
pub trait Server {
    /// The number of its first process while it runs, frozen or not.
    fn pid(&mut self) -> Option<u32>;

    /// Kills it at once.
    ///
    /// # Errors
    /// When something of it lives on.
    fn kill(&mut self) -> Result<()>;

    /// Stops it in its tracks: connections stay open and nobody answers.
    ///
    /// # Errors
    /// When it does not run.
    fn freeze(&mut self) -> Result<()>;

    /// Lets a frozen one go on.
    ///
    /// # Errors
    /// When it does not run.
    fn thaw(&mut self) -> Result<()>;

    /// Stops it if it runs, and starts it on the same ports and data; answered when it is ready.
    ///
    /// # Errors
    /// When it does not end or not start.
    fn restart(&mut self) -> Result<()>;

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not run or does not end in time; it is killed then.
    fn stop(&mut self) -> Result<()>;
}

fn pid(process: Result<&mut Process>) -> Option<u32> {
    let process = process.ok()?;
    process.running().then(|| process.pid())
}

impl Server for Postgres {
    fn pid(&mut self) -> Option<u32> {
        self.pids().first().copied()
    }

    fn kill(&mut self) -> Result<()> {
        Self::kill(self)
    }

    fn freeze(&mut self) -> Result<()> {
        Self::freeze(self)
    }

    fn thaw(&mut self) -> Result<()> {
        Self::thaw(self);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        Self::restart(self)
    }

    fn stop(&mut self) -> Result<()> {
        Self::stop(self)
    }
}

/// For values whose own methods have these names, and that are one process.
macro_rules! one_process {
    ($($server:ty),*) => {$(
        impl Server for $server {
            fn pid(&mut self) -> Option<u32> {
                pid(self.process())
            }

            fn kill(&mut self) -> Result<()> {
                Self::kill(self);
                Ok(())
            }

            fn freeze(&mut self) -> Result<()> {
                self.process()?.freeze()
            }

            fn thaw(&mut self) -> Result<()> {
                self.process()?.heal()
            }

            fn restart(&mut self) -> Result<()> {
                Self::restart(self)
            }

            fn stop(&mut self) -> Result<()> {
                Self::stop(self).map(|_| ())
            }
        }
    )*};
}

one_process!(PgBouncer, Haproxy, Shunt, Tansu);

impl Server for Redis {
    fn pid(&mut self) -> Option<u32> {
        pid(self.process())
    }

    fn kill(&mut self) -> Result<()> {
        Self::kill(self);
        Ok(())
    }

    fn freeze(&mut self) -> Result<()> {
        Self::freeze(self)
    }

    fn thaw(&mut self) -> Result<()> {
        Self::thaw(self)
    }

    fn restart(&mut self) -> Result<()> {
        Self::restart(self)
    }

    fn stop(&mut self) -> Result<()> {
        Self::stop(self)
    }
}
