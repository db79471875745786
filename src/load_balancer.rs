//! The canonical stack behind one builder.
