//! When each subscription has due work.

use std::collections::BTreeSet;

/// Times at which keys come due, at most one time for each key. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub struct WakeTimes<K> {
    times: BTreeSet<(i64, K)>,
}

/// The next step of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextWake<K> {
    /// This key is due; it has no time any more.
    Due(K),
    /// No key comes due for this long, in milliseconds.
    Wait(i64),
    /// No key has a time.
    Nothing,
}

impl<K: Ord> Default for WakeTimes<K> {
    fn default() -> Self {
        Self { times: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> WakeTimes<K> {
    /// Moves the time of `key` from `before_ms` to `at_ms`; returns whether it is now the earliest.
    pub fn set(&mut self, key: K, before_ms: Option<i64>, at_ms: i64) -> bool {
        if let Some(before_ms) = before_ms {
            self.times.remove(&(before_ms, key));
        }
        let is_first = self.times.first().is_none_or(|(first_ms, _)| at_ms < *first_ms);
        self.times.insert((at_ms, key));
        is_first
    }

    /// Takes the first key that is due at `now_ms`, or tells how long to wait for one.
    pub fn next(&mut self, now_ms: i64) -> NextWake<K> {
        match self.times.first().copied() {
            Some((at_ms, key)) if at_ms <= now_ms => {
                self.times.pop_first();
                NextWake::Due(key)
            }
            Some((at_ms, _)) => NextWake::Wait(at_ms - now_ms),
            None => NextWake::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_each_once() {
        let mut times = WakeTimes::default();
        assert!(times.set('a', None, 130), "it is the only one");
        assert!(!times.set('b', None, 900));
        assert!(times.set('b', Some(900), 110), "it comes before all others by now");
        assert!(times.set('c', None, 99));
        assert_eq!(times.next(100), NextWake::Due('c'));
        assert_eq!(times.next(100), NextWake::Wait(10));
        assert_eq!(times.next(110), NextWake::Due('b'));
        assert_eq!(times.next(110), NextWake::Wait(20));
        assert_eq!(times.next(130), NextWake::Due('a'));
        assert_eq!(times.next(i64::MAX), NextWake::Nothing, "a key that moved is not due at its old time");
    }

    #[test]
    fn keys_of_one_time_all_come() {
        let mut times = WakeTimes::default();
        assert!(times.set(1, None, 50));
        assert!(!times.set(2, None, 50), "it is not before the other one");
        assert_eq!((times.next(50), times.next(50)), (NextWake::Due(1), NextWake::Due(2)));
        assert_eq!(times.next(50), NextWake::Nothing);
    }
}
