//! The whole crate over real sockets, one file a room.

mod error;
