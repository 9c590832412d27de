//! What has to hold when everybody in a wave has come to an end, and how a violation is told.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::super::database::Database;
use super::super::maintenance::{BlobFilter, BlobRow};
use super::super::recovery::sweep;
use super::shared::all_files;
use super::wave::{Violation, Wave};
use super::world::{World, world_of};
use crate::application::ports::ObjectName;
use crate::infrastructure::storage::BlobFile;

impl Wave<'_> {
    /// What has to hold when nothing goes on.
    pub(super) async fn judge(&self) -> Result<(), Violation> {
        let database = self.servers[0].database.clone();
        if database.garbage_totals().await.unwrap() != (0, 0) {
            return Err(Violation::shared("the last cycle left garbage".to_owned()));
        }
        let rows = all_rows(&database).await;
        for world in &self.worlds {
            check_rows_of(world, &rows).map_err(|what| Violation { world: Some(world.number), what })?;
        }
        for (check, finding) in database.check_rows().await.unwrap() {
            if finding.count > 0 && check != "damaged_blobs" {
                return Err(Violation::shared(format!("{check}: {finding:?}")));
            }
        }
        self.check_files(&rows).await?;
        self.check_some_objects(&database).await
    }

    /// Only what ended runs left behind is named by no row, and the sweep removes it.
    async fn check_files(&self, rows: &HashMap<BlobFile, BlobRow>) -> Result<(), Violation> {
        let ended: HashSet<_> = self.servers.iter().flat_map(|server| &server.ended).copied().collect();
        let stray = |file: &BlobFile| !rows.contains_key(file);
        for file in all_files(&self.store.roots) {
            if stray(&file) && !file.place.file_instance().is_some_and(|instance| ended.contains(&instance)) {
                let what = format!("{} is there, and nothing will ever remove it", file.place);
                return Err(Violation { world: Some(world_of(&file)), what });
            }
        }
        for server in &self.servers {
            let swept = sweep(server.database.clone(), self.store.roots.clone(), &server.node).await;
            swept.map_err(|error| Violation::shared(error.to_string()))?;
        }
        match all_files(&self.store.roots).into_iter().find(stray) {
            None => Ok(()),
            Some(file) => Err(Violation {
                world: Some(world_of(&file)),
                what: format!("the sweep has left {}", file.place),
            }),
        }
    }

    async fn check_some_objects(&self, database: &Database) -> Result<(), Violation> {
        for world in self.worlds.iter().step_by(50) {
            for object in &world.objects {
                let found = database.find(&ObjectName::Id(object.id)).await.unwrap();
                if found.is_some() != object.committed {
                    let what = format!("{} is there: {}", object.id, found.is_some());
                    return Err(Violation { world: Some(world.number), what });
                }
                let class = world.contents[object.content].class;
                if found.is_some_and(|found| found.object.storage_class != class) {
                    let what = format!("{} is not in the class that it has moved to", object.id);
                    return Err(Violation { world: Some(world.number), what });
                }
            }
        }
        Ok(())
    }

    /// The whole story of a violation.
    pub(super) fn tell(&self, seed: u64, violation: &Violation) -> String {
        let mut story = format!("{}\nSCHEDULES_SEED={seed} runs this wave again", violation.what);
        let mut lines: Vec<(u64, String)> =
            self.log.iter().map(|(time, what)| (*time, format!("    {what}"))).collect();
        if let Some(world) = violation.world.map(|number| &self.worlds[number]) {
            let _ = write!(story, "\nworld {}, moment by moment:", world.number);
            for note in &world.notes {
                let who = note.actor.map_or(String::new(), |actor| {
                    format!("{} {actor}: ", self.roles[world.number][actor].actor.name())
                });
                let place = note.place.map_or(String::new(), |place| format!(" {place}"));
                lines.push((note.time, format!("{who}{}{place}", note.what)));
            }
        }
        lines.sort_by_key(|(time, _)| *time);
        for (time, what) in lines {
            let _ = write!(story, "\n{:5} {what}", time - self.begin);
        }
        story
    }
}

async fn all_rows(database: &Database) -> HashMap<BlobFile, BlobRow> {
    let (mut rows, mut after) = (HashMap::new(), None);
    loop {
        let page = database.blob_page(BlobFilter::All, after, 1000).await.unwrap();
        let Some(last) = page.last() else { return rows };
        after = Some((last.location.content_hash, last.location.storage_class));
        rows.extend(page.iter().map(|row| (row.location, *row)));
    }
}

/// Every count is that of the objects, and every copy that serves is there.
fn check_rows_of(world: &World, rows: &HashMap<BlobFile, BlobRow>) -> Result<(), String> {
    for (number, content) in world.contents.iter().enumerate() {
        let count = world.count(number);
        let serving = world.serving[number].and_then(|place| rows.get(&content.at(place)));
        let row = match serving {
            Some(row) => Some(row),
            None => rows.values().find(|row| {
                (row.location.content_hash, row.location.storage_class) == (content.hash, content.class)
            }),
        };
        match row {
            None if count == 0 => {}
            None => return Err(format!("{count} objects have no blob")),
            Some(row) if row.ref_count != i64::try_from(count).unwrap() => {
                return Err(format!("{count} objects are counted as {}", row.ref_count));
            }
            Some(row) => {
                let place = row.location.place;
                if !world.is_whole(number, place) && !world.damaged.contains(&place) {
                    return Err(format!("{place} serves {count} objects, and is not there"));
                }
            }
        }
    }
    Ok(())
}
