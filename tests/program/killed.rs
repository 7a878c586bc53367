//! The built program, killed and started again until it ends.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{program, root};

/// Runs this until it ends, killing it five times on the way: at moments spread over a run of `time` by a fixed rule. Each attempt goes
/// on where the last one died, if the arguments say so.
pub(crate) fn succeed_though_killed(arguments: &[String], time: Duration) {
    for attempt in 0..60 {
        let mut child =
            Command::new(program()).args(arguments).current_dir(root()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let share = [0.15, 0.35, 0.55, 0.3, 0.7].get(attempt).copied().unwrap_or(10.0);
        let deadline = Instant::now() + time.mul_f64(share).max(Duration::from_millis(20));
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        if let Some(status) = status {
            assert!(status.success());
            return;
        }
    }
    panic!("never finished");
}
