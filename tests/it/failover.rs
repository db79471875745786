//! (Tests of the room.)
