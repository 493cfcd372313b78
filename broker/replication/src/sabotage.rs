//! Breaking the decisions on purpose, with the switches of kerolox-log. Without the feature `sabotage` this crate depends on nothing,
//! and every switch is a constant `false`.

#[cfg(feature = "sabotage")]
pub(crate) use kerolox_log::sabotage::is;

/// Never: this build cannot be broken.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub(crate) const fn is(_switch: &str) -> bool {
    false
}
