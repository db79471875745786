//! The JSON encoder: writes a line into a buffer, without a tree of values and without an allocation.

mod cursor;
mod line;
mod text;
mod time;

pub(super) use cursor::{Buffer, Cursor};
pub(super) use line::{End, conn_text, node, write, write_conn, write_end, write_request};
pub(super) use text::hexadecimal;
pub(super) use time::since_1970;
