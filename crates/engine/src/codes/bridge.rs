//! The allocator as the links use case sees it.

use shunt_domain::ports::BoxFuture;
use shunt_domain::{Code, Deadline, StoreError};

use super::{AllocateError, Allocator};
use crate::links::{CodeSource, DrawError};

impl From<AllocateError> for DrawError {
    fn from(error: AllocateError) -> Self {
        match error {
            AllocateError::Exhausted { .. } => Self::Exhausted,
            AllocateError::PoolEmpty => Self::PoolEmpty,
            AllocateError::Store(error) => Self::Store(error),
            AllocateError::Entropy(_) | AllocateError::Stopped => {
                Self::Store(StoreError::Unavailable(error.to_string()))
            }
        }
    }
}

impl CodeSource for Allocator {
    fn draw(&self, n: usize, deadline: Deadline) -> BoxFuture<'_, Result<Vec<Code>, DrawError>> {
        Box::pin(async move { Ok(Self::draw(self, n, deadline).await?) })
    }

    fn report(&self, drawn: usize, collided: usize) {
        Self::report(self, drawn, collided);
    }

    fn put_back(&self, unused: Vec<Code>) {
        Self::put_back(self, unused);
    }
}
