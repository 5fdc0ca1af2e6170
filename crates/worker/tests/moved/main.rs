//! All tests of a worker, once more, with the worker taken apart and put together after every
//! turn: no test may notice.

#[path = "../worker/main.rs"]
mod worker;
