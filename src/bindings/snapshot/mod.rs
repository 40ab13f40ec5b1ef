//! Values of Python for the journal, and back: what JSON cannot say is tagged and comes back as it was.
//!
//! A tag is an object with one key that starts with `$`. What no tag can say becomes
//! `{"$opaque": "module.Type"}` and is lost to a later life, which names it. A class with the methods
//! `to_journal(self)` and `from_journal(cls, value)` says itself what is kept of it.

mod decode;
mod encode;

pub(super) use decode::decode;
pub(super) use encode::{encode, encode_context};
