//! Every decision of the broker as pure functions: no I/O, no clock, no threads.
