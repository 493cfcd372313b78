//! One member of a broker group.
