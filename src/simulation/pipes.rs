//! Pipes for splice(2). The engine keeps one that is empty for the next connection.

use super::*;
use crate::net::Pipe;

#[derive(Debug, Default)]
pub(super) struct SimulatedPipe {
    /// The connection whose bytes are in it.
    pub(super) owner: usize,
    pub(super) len: usize,
}

impl World {
    /// How many bytes fit into a pipe: not more than the budget.
    pub(super) fn pipe_size(&self) -> u64 {
        self.plan.config.max_buffered.min(256 * 1024) as u64
    }
}

impl Pipe for SimulatedPipe {
    fn is_usable() -> bool {
        true
    }

    fn open() -> io::Result<Self> {
        let mut world = world();
        world.call("pipe").map_err(error)?;
        world.pipes += 1;
        Ok(SimulatedPipe::default())
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for SimulatedPipe {
    fn drop(&mut self) {
        if !thread::panicking() {
            let mut world = world();
            let is_needed = self.len == 0 && world.pipes == 1 && !world.is_shutting_down();
            check!(!is_needed, "the only pipe is not kept");
            world.pipes -= 1;
        }
    }
}
