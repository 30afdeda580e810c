//! What the machine allows.
