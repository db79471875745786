//! (The room's docs.)
