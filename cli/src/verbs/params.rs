//! `timbre params`
