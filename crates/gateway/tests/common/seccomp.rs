//! seccomp filters around what a test starts, with system calls by their names.

use std::{env::consts::ARCH, slice, thread};

use seccompiler::{BpfProgram, apply_filter, compile_from_json};
use serde_json::{Value, json};

/// Runs something under these filters; where two refuse the same call, the later one says how. A
/// filter is a thread's, and its children inherit it: the thread that starts the binary is all that
/// it takes.
pub(crate) fn under<T: Send + 'static>(
    filters: Vec<BpfProgram>,
    run: impl FnOnce() -> T + Send + 'static,
) -> T {
    let filtered = move || {
        filters.iter().for_each(|filter| apply_filter(filter).unwrap());
        run()
    };
    thread::spawn(filtered).join().unwrap()
}

/// A filter that does one thing with calls of which a rule holds, `{"syscall", "args"}` as
/// seccompiler has them, and another with all others. What is no call of this machine is left out.
pub(crate) fn filter(rules: &[Value], matched: &Value, otherwise: &Value) -> BpfProgram {
    let compile = |rules: &[Value]| {
        let filter =
            json!({ "match_action": matched, "mismatch_action": otherwise, "filter": rules });
        let filters = json!({ "filter": filter }).to_string();
        compile_from_json(filters.as_bytes(), ARCH.try_into().unwrap())
    };
    let is_known = |rule: &&Value| match compile(slice::from_ref(rule)) {
        Ok(_) => true,
        Err(error) if error.to_string().contains("Invalid syscall name") => false,
        Err(error) => panic!("{rule}: {error}"),
    };
    let known: Vec<Value> = rules.iter().filter(is_known).cloned().collect();
    compile(&known).unwrap().remove("filter").unwrap()
}
