//! Seeded worlds, most of them unlucky. `docs/simulation.md` tells how to repeat one.

mod chaos;
mod membership;
mod replan;
mod standby;
