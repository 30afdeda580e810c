//! Documents become shuffled, packed token shards.
#![forbid(unsafe_code)]
