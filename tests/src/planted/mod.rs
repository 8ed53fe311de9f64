//! Planted bugs (`duramen_common::planted`) and the suites that catch them.
//!
//! * `table` says which suite catches which bug, within how many seeds, and what it must say. `hunt` looks for one.
//! * Suites: `store_suite` (one log on a disk that forgets), `serving_suite` (one serving node over a log in memory),
//!   `terms_suite` (one group whose lead is handed around), and the simulator (`crate::sim`), with faults of every kind or with
//!   those of leaders. All are seeded and run in one thread, where `planted::with` reaches everything; except `operator_suite`,
//!   whose processes get the bug through their environment.
//! * A suite counts only if it is also silent without a bug: `control`.
//! * `scripts/planted.sh` hunts all and prints the table; the module `planted` of the end-to-end tests those that are quick.

pub mod chance;
pub mod hunt;
pub mod operator_suite;
pub mod serving_suite;
pub mod store_suite;
pub mod suite;
pub mod table;
pub mod terms_suite;

pub use hunt::{Catch, Hunted, control, hunt};
pub use suite::Suite;
pub use table::{Row, TABLE};
