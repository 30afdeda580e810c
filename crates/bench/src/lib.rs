//! How fast a model runs, against what the machine allows.
