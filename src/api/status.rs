//! What shared memory knows.

use pgrx::prelude::*;

use crate::pg::shared;

#[pg_extern(sql = false)]
fn scheduler_pid() -> Option<i32> {
    shared::scheduler_pid()
}
