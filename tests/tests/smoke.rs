//! The harness itself: a server with the extension, a database, a stream table that follows.

use pgt_tests::Server;

#[test]
fn a_stream_table_follows_its_source() {
    let db = Server::shared().database();
    let mut s = db.connect();
    s.exec("create table s (k int primary key, n int); insert into s values (1, 5), (2, 50)");
    let v = s.stream_table("v", "select k, n * 2 as twice from s where n > 10");
    v.assert_fresh(&mut s);
    s.exec("insert into s values (3, 70); update s set n = 20 where k = 1; delete from s where k = 2");
    v.follows(&mut s);
}
