//! The coordinator: holds everything, decides everything, and answers over HTTP.
//!
//! Four layers, one direction: `http` and `background` → `operations` → `domain` and `store`.

pub mod clock;
pub mod error;
pub mod store;
