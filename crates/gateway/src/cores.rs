//! Which CPUs the workers run on: the affinity mask, the CPU quota of the control group, and what
//! `--cores` and `--pin` make of them. Parsing is pure; only [`Cpus::of_this_process`] looks.

use std::{fs, io, path::Path, str::FromStr};

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::cgroup::{Group, groups};

/// CPUs by number, ascending, each once: `0-3,6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CoreList(pub(crate) Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a list of cores is numbers and ranges, as 0-3,6".to_owned();
        let number = |text: &str| {
            let core: usize = text.parse().map_err(|_| wrong())?;
            if core < CpuSet::MAX_CPU { Ok(core) } else { Err(format!("there is no core {core}")) }
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self(cores))
    }
}

/// What this process may use of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cpus {
    /// The affinity mask, ascending.
    pub(crate) allowed: Vec<usize>,
    /// True exactly when the mask leaves CPUs of the machine out: somebody has set a CPU set.
    pub(crate) is_subset: bool,
    /// The CPU time that the control group may use, in CPUs, rounded up. `None`: no quota.
    pub(crate) quota: Option<usize>,
}

impl Cpus {
    /// Looks at the calling thread's mask and the process's control group.
    ///
    /// # Errors
    /// The kernel does not tell the mask.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let mask = sched_getaffinity(None)?;
        let allowed = (0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect();
        Ok(Self::new(allowed, Path::new("/")))
    }

    /// With this mask, and what the files below `root` say of the machine and the control group.
    pub(crate) fn new(allowed: Vec<usize>, root: &Path) -> Self {
        let online = fs::read_to_string(root.join("sys/devices/system/cpu/online")).ok();
        let online = online.and_then(|text| text.trim().parse::<CoreList>().ok());
        let is_subset = online.is_some_and(|online| allowed.len() < online.0.len());
        let quota = fs::read_to_string(root.join("proc/self/cgroup"))
            .ok()
            .and_then(|membership| quota(&membership, &root.join("sys/fs/cgroup")));
        Self { allowed, is_subset, quota }
    }

    /// The cores that workers are dealt to.
    ///
    /// # Errors
    /// One sentence that names a core which the process may not use.
    pub(crate) fn choose(&self, asked: Option<&CoreList>) -> Result<Vec<usize>, String> {
        let Some(CoreList(cores)) = asked else {
            let cores_max = self.quota.unwrap_or(usize::MAX);
            return Ok(self.allowed.iter().copied().take(cores_max).collect());
        };
        match cores.iter().find(|core| !self.allowed.contains(core)) {
            None => Ok(cores.clone()),
            Some(core) => Err(format!("--cores: this process may not run on core {core}")),
        }
    }

    /// Whether `--pin auto` pins, and why. A quota counts the CPU time of the whole group: a
    /// thread that is bound to a busy CPU wastes it, unless the CPUs were set aside for the group.
    pub(crate) fn pins(&self) -> (bool, &'static str) {
        match (self.quota, self.is_subset) {
            (Some(_), false) => (false, "a CPU quota is set without a CPU set"),
            (Some(_), true) => (true, "the CPU quota comes with a CPU set"),
            (None, _) => (true, "no CPU quota is set"),
        }
    }
}

/// The smallest quota on the way from the process's group up to the root, by what
/// `/proc/self/cgroup` says. Reads both versions of control groups.
fn quota(membership: &str, mounts: &Path) -> Option<usize> {
    let quota = |group: Group| {
        let read = |name: &str| fs::read_to_string(group.directory.join(name)).ok();
        if group.is_v2 {
            return read("cpu.max").and_then(|text| quota_v2(&text));
        }
        let period = read("cpu.cfs_period_us");
        let quota = read("cpu.cfs_quota_us").zip(period);
        quota.and_then(|(quota, period)| cpus(quota.trim(), period.trim()))
    };
    groups(membership, mounts, "cpu").into_iter().filter_map(quota).min()
}

/// `cpu.max`: the quota or `max`, then the period, both in microseconds.
fn quota_v2(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota, period)
}

/// ⌈quota ÷ period⌉; `None` for `max` and for -1, which stand for no quota.
fn cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_numbers_and_ranges() {
        let cores = |text: &str| text.parse().map(|CoreList(cores)| cores);
        assert_eq!(cores("0"), Ok(vec![0]));
        assert_eq!(cores("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(cores("6,0-2,1"), Ok(vec![0, 1, 2, 6]));
        for wrong in ["", "a", "3-1", "0,", "-1", "0--1", "0;1", "99999"] {
            assert!(cores(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_cpus() {
        assert_eq!(quota_v2("max 100000\n"), None);
        assert_eq!(quota_v2("200000 100000\n"), Some(2));
        assert_eq!(quota_v2("150000 100000\n"), Some(2));
        assert_eq!(quota_v2("50000 100000\n"), Some(1));
        assert_eq!(cpus("-1", "100000"), None);
        assert_eq!(cpus("250000", "100000"), Some(3));
    }

    #[test]
    fn the_tightest_group_above_counts() {
        let root = std::env::temp_dir().join(format!("ringway-cores-{}", std::process::id()));
        let group = root.join("outer/inner");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cpu.max"), "max 100000\n").unwrap();
        fs::write(root.join("outer/cpu.max"), "300000 100000\n").unwrap();
        let v1 = root.join("cpu/job");
        fs::create_dir_all(&v1).unwrap();
        fs::write(v1.join("cpu.cfs_quota_us"), "150000\n").unwrap();
        fs::write(v1.join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota("0::/outer/inner\n", &root), Some(3));
        assert_eq!(quota("3:cpuacct,cpu:/job\n2:cpuset:/\n", &root), Some(2));
        assert_eq!(quota("0::/elsewhere\n", &root), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_default_is_the_mask_up_to_the_quota() {
        let cpus = |quota| Cpus { allowed: vec![0, 2, 4], is_subset: false, quota };
        assert_eq!(cpus(None).choose(None), Ok(vec![0, 2, 4]));
        assert_eq!(cpus(Some(2)).choose(None), Ok(vec![0, 2]));
        assert_eq!(cpus(Some(8)).choose(None), Ok(vec![0, 2, 4]));
        assert_eq!(cpus(Some(1)).choose(Some(&CoreList(vec![2, 4]))), Ok(vec![2, 4]));
        assert_eq!(
            cpus(None).choose(Some(&CoreList(vec![0, 1]))),
            Err("--cores: this process may not run on core 1".to_owned())
        );
    }

    #[test]
    fn a_quota_without_a_cpu_set_is_not_pinned() {
        let pins = |quota, is_subset| Cpus { allowed: vec![0], is_subset, quota }.pins().0;
        assert!(pins(None, false));
        assert!(pins(None, true));
        assert!(!pins(Some(2), false));
        assert!(pins(Some(2), true));
    }
}
