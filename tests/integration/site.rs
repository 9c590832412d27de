//! A real PostgreSQL and one pair of storage roots, for as many servers as a test wants.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::server::{Server, serve_command, wait_until};
use crate::throwaway_postgres::ThrowawayPostgres;

/// Collectors that take what nothing refers to at once, and look as often as they may.
pub(crate) const EAGER_COLLECTORS: [&str; 2] = ["--gc-interval-secs=10", "--gc-grace-secs=0"];

pub(crate) struct Site {
    pub(crate) postgres: ThrowawayPostgres,
    pub(crate) url: String,
    pub(crate) directory: Arc<TempDir>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let postgres = ThrowawayPostgres::start();
        let url = postgres.database();
        Self { postgres, url, directory: Arc::new(tempfile::tempdir().unwrap()) }
    }

    /// A server of this name.
    pub(crate) fn start(&self, node: &str, flags: &[&str]) -> Server {
        Server::listening(self.command(node, &self.url, flags), &self.directory)
    }

    /// A server that reaches the database through another port.
    pub(crate) fn start_through(&self, port: u16, node: &str, flags: &[&str]) -> Server {
        let command = self.command(node, &self.postgres.latest_through(port), flags);
        Server::listening(command, &self.directory)
    }

    /// Waits until every count is that of its objects, nothing is left to be collected, every blob has its one file,
    /// and no file is left over. Nobody may write meanwhile, and one of the servers has to collect at once.
    pub(crate) fn wait_until_in_order(&self, server: &Server) {
        const WRONG: &str = "
            SELECT (SELECT count(*) FROM objects WHERE status = 0), (SELECT count(*) FROM garbage), count(*)
            FROM blobs AS b FULL JOIN (
                SELECT content_hash, storage_class, count(*) AS objects FROM objects WHERE status = 1 GROUP BY 1, 2
            ) AS o USING (content_hash, storage_class)
            WHERE b.ref_count IS DISTINCT FROM o.objects";
        const FILES: &str = "SELECT encode(content_hash, 'hex') || '-' || place FROM blobs ORDER BY 1";
        wait_until("rows and files to be the same", || {
            let files = server.files("blobs");
            let names = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
            let names: BTreeSet<&str> = names.collect();
            let rows = self.postgres.ask(FILES);
            (self.postgres.ask(WRONG) == "0|0|0" && rows.lines().collect::<BTreeSet<_>>() == names)
                .then_some(())
        });
    }

    fn command(&self, node: &str, url: &str, flags: &[&str]) -> Command {
        let mut command = serve_command(&self.directory.path().join(node), flags);
        for (flag, root) in [("--hot-storage-root", "hot"), ("--cold-storage-root", "cold")] {
            command.arg(flag).arg(self.directory.path().join(root));
        }
        command.args(["--node-name", node, "--log-format", "json"]).env("DATABASE_URL", url);
        command
    }
}
