//! Administration of Kerolox from the command line.
