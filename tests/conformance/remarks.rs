//! What of the checklist cannot be tested, or is meant differently here, and why.

/// A line, and what there is to say about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remark {
    pub(crate) line: u8,
    pub(crate) what: &'static str,
}

const fn remark(line: u8, what: &'static str) -> Remark {
    Remark { line, what }
}

/// Lines about features that do not exist.
pub(crate) const NOT_YET: &[Remark] = &[remark(13, "no authentication"), remark(14, "no authentication")];

/// Lines that are tested but for something that does not exist.
pub(crate) const PARTLY: &[Remark] =
    &[remark(1, "no PROXY protocol"), remark(45, "no replication, so no SLAVE_PERSISTENCE_TIMEOUT")];

/// Lines that are kept in their purpose, not in their wording.
pub(crate) const DIFFERENT: &[Remark] = &[
    remark(
        6,
        "a body of more than 4 MiB less 64 KiB makes a larger item; limits.max-body-bytes rules it out",
    ),
    remark(
        23,
        "groups that consume in order get one assignment per broker too: the broker keeps the order itself",
    ),
    remark(34, "a nameserver, which evaluates no filters, takes any; the broker refuses the receive"),
    remark(
        69,
        "after the last check-back a half message is parked, undecided: nothing is rolled back unasked",
    ),
];

/// Lines that take minutes.
pub(crate) const LONG: &[Remark] = &[remark(74, "five minutes of silence")];
