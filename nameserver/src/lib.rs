//! Routes and SDK access point.
