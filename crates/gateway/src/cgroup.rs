//! The control groups of this process: where a controller's files lie, from the process's own group
//! up to the root, in both versions.

use std::path::{Path, PathBuf};

/// A group's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) directory: PathBuf,
    /// Whether its files are those of version 2.
    pub(crate) is_v2: bool,
}

/// The groups in which `controller` bounds the process, the innermost of each hierarchy first, by
/// what `/proc/self/cgroup` says. `mounts` is `/sys/fs/cgroup`.
pub(crate) fn groups(membership: &str, mounts: &Path, controller: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|other| other == controller) {
            continue;
        }
        let mount = if is_v2 { mounts.to_owned() } else { mounts.join(controller) };
        let group = mount.join(path.trim_start_matches('/'));
        let above = group.ancestors().take_while(|directory| directory.starts_with(&mount));
        groups.extend(above.map(|directory| Group { directory: directory.to_owned(), is_v2 }));
    }
    groups
}
