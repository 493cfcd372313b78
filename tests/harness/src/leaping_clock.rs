//! A wall clock of its own for a process, which can be made to leap. The kernel has one wall clock for all, so a small library that
//! the process loads first answers in its place.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The library: it adds the seconds in the file that `KEROLOX_LEAP` names to every reading of the wall clock.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("KEROLOX_LEAP");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *map = mmap(0, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) ahead = map;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    if (!failed && clock == CLOCK_REALTIME && ahead) time->tv_sec += *ahead;
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"#;

/// The wall clock of the processes that get [`Self::environment`].
#[derive(Debug)]
pub struct LeapingClock {
    library: PathBuf,
    ahead: PathBuf,
}

impl LeapingClock {
    /// A clock that goes right, with its files in `folder`. Needs a C compiler.
    ///
    /// # Errors
    /// When there is none, or the files cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        let (source, library) = (folder.join("leap.c"), folder.join("leap.so"));
        std::fs::write(&source, SOURCE)?;
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        let compiled = compiled.context("running cc")?;
        ensure!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
        let clock = Self { library, ahead: folder.join("leap.seconds") };
        std::fs::write(&clock.ahead, 0_i64.to_ne_bytes())?;
        Ok(clock)
    }

    /// What a process needs that is to have this clock.
    ///
    /// # Panics
    /// When the folder's name is no UTF-8.
    pub fn environment(&self) -> [(&str, &str); 2] {
        [
            ("LD_PRELOAD", self.library.to_str().expect("UTF-8")),
            ("KEROLOX_LEAP", self.ahead.to_str().expect("UTF-8")),
        ]
    }

    /// From now on the clock is so far ahead of the right time.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set_ahead(&self, by: Duration) -> Result<()> {
        // In place: processes have the file in their memory.
        let mut file = File::options().write(true).open(&self.ahead)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&i64::try_from(by.as_secs())?.to_ne_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_it_has_another_time() {
        let folder = tempfile::tempdir().unwrap();
        let clock = LeapingClock::new(folder.path()).unwrap();
        let now = || {
            let told = Command::new("date").arg("+%s").envs(clock.environment()).output().unwrap();
            String::from_utf8(told.stdout).unwrap().trim().parse::<u64>().unwrap()
        };
        let before = now();
        clock.set_ahead(Duration::from_secs(86_400)).unwrap();
        let after = now();
        assert!((86_400..86_500).contains(&(after - before)), "{before} {after}");
    }
}
