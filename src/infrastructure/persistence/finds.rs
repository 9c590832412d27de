//! Looking up objects that no core remembers. Most of what one look costs is its way to the database and back; so those
//! that come while others are on their way wait for these, and go together, as one statement.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::reader::Reader;
use crate::application::errors::RepositoryError;
use crate::application::ports::{Freshness, ObjectName};
use crate::domain::entities::StoredObject;
use crate::infrastructure::plane_channel::{Query, QueryRequest, Reply};

/// How many go together at most: more would keep the first of them waiting, and gain nothing.
const TOGETHER_MAX: usize = 128;
/// How many statements are under way at once: the next is made while the database works on one.
const UNDER_WAY_MAX: usize = 2;

/// One question, and who asked it.
pub(super) struct Find {
    name: ObjectName,
    reply: Reply<Option<StoredObject>>,
    /// The change that must have been applied before nothing can be found; 0 for none.
    after: u64,
    /// Its place in the queue, until it is answered.
    _place: OwnedSemaphorePermit,
}

impl Find {
    pub(super) fn new(
        name: ObjectName,
        reply: Reply<Option<StoredObject>>,
        after: u64,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { name, reply, after, _place: place }
    }

    /// Whether it may go with others. To look for an object by what it holds takes more than one step.
    pub(super) fn is_one_step(name: &ObjectName) -> bool {
        !matches!(name, ObjectName::Content(..))
    }

    fn refuse(self, error: RepositoryError) {
        // A caller that has gone no longer wants to know.
        let _ = self.reply.send(Err(error));
    }

    /// Answers it apart from the others, and waits for the log if need be.
    async fn answer_alone(self, reader: &Reader) {
        let Self { name, reply, after, _place } = self;
        reader.take(QueryRequest { query: Query::Find(name, Freshness::Cached, reply), after }).await;
    }
}

/// The questions that wait for each other.
#[derive(Default)]
pub(super) struct Finds {
    waiting: RefCell<Vec<Find>>,
    under_way: Cell<usize>,
}

impl Finds {
    /// Takes in a question, which is answered with those that come right behind it.
    pub(super) fn add(self: &Rc<Self>, reader: &Rc<Reader>, find: Find) {
        self.waiting.borrow_mut().push(find);
        if self.under_way.get() < UNDER_WAY_MAX {
            self.under_way.set(self.under_way.get() + 1);
            let (finds, reader) = (self.clone(), reader.clone());
            tokio::task::spawn_local(async move { finds.answer(&reader).await });
        }
    }

    /// Answers until nothing waits.
    async fn answer(&self, reader: &Rc<Reader>) {
        while let Some(together) = self.next() {
            answer_together(reader, together).await;
        }
        self.under_way.set(self.under_way.get() - 1);
    }

    /// The first that wait.
    fn next(&self) -> Option<Vec<Find>> {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(TOGETHER_MAX);
        (count > 0).then(|| waiting.drain(..count).collect())
    }
}

async fn answer_together(reader: &Rc<Reader>, mut finds: Vec<Find>) {
    if finds.len() == 1 {
        // Its own statement is the cheaper one.
        if let Some(find) = finds.pop() {
            find.answer_alone(reader).await;
        }
        return;
    }
    let _turn = match reader.turn().await {
        Ok(turn) => turn,
        Err(error) => return finds.into_iter().for_each(|find| find.refuse(error)),
    };
    // Before the database is asked: what is applied while it looks may be what it did not find.
    let settled: Vec<_> = finds.iter().map(|find| reader.has_applied(find.after)).collect();
    let names: Vec<_> = finds.iter().map(|find| find.name.clone()).collect();
    let started = Instant::now();
    let found = reader.find_each(&names).await;
    reader.metrics.queries.record(started.elapsed());
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let error = reader.latch.judge(&error);
            return finds.into_iter().for_each(|find| find.refuse(error));
        }
    };
    reader.latch.answered();
    for ((find, found), settled) in finds.into_iter().zip(found).zip(settled) {
        // As where one is asked for alone: what is there and whole stands, whatever has not been applied yet.
        if settled || found.as_ref().is_some_and(|found| !found.damaged) {
            let _ = find.reply.send(Ok(found));
        } else {
            let reader = reader.clone();
            tokio::task::spawn_local(async move { find.answer_alone(&reader).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join_all;
    use tokio::sync::{Semaphore, oneshot};
    use tokio::task::LocalSet;

    use super::super::batch::BatchContext;
    use super::super::database::{Database, DatabaseSettings, DatabaseUrl};
    use super::*;
    use crate::application::contract::a_commit;
    use crate::domain::value_objects::{InstanceId, ObjectId, Timestamp};
    use crate::infrastructure::metrics::Durations;
    use crate::infrastructure::plane_channel::{LogOrder, Write};

    type Answer = Result<Option<StoredObject>, RepositoryError>;

    /// What is asked in one go.
    struct Asked {
        finds: Rc<Finds>,
        reader: Rc<Reader>,
        places: Arc<Semaphore>,
    }

    impl Asked {
        fn of(database: Arc<Database>, order: Option<Arc<LogOrder>>) -> Self {
            let reader = Rc::new(Reader::of_test(database, order));
            Self { finds: Rc::default(), reader, places: Arc::new(Semaphore::new(2 * TOGETHER_MAX)) }
        }

        fn ask(&self, id: ObjectId, after: u64) -> oneshot::Receiver<Answer> {
            let (reply, answer) = oneshot::channel();
            let place = self.places.clone().try_acquire_owned().unwrap();
            self.finds.add(&self.reader, Find::new(ObjectName::Id(id), reply, after, place));
            answer
        }

        fn statements(&self) -> u64 {
            Durations::merge([&self.reader.metrics.queries]).count()
        }
    }

    async fn open(directory: &tempfile::TempDir) -> Arc<Database> {
        let url = DatabaseUrl::in_directory(directory.path());
        Arc::new(Database::open(&url, DatabaseSettings::OF_TEST).await.unwrap())
    }

    /// Stores so many objects.
    async fn store(database: &Database, count: u8) -> Vec<ObjectId> {
        let commits: Vec<_> = (0..count).map(|number| a_commit(None, number, 1)).collect();
        let ids = commits.iter().map(|commit| commit.stored.object.id).collect();
        let writes: Vec<_> = commits.into_iter().map(Write::Commit).collect();
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        database.apply(&writes, &mut u64::from(count), context).await.unwrap();
        ids
    }

    #[tokio::test]
    async fn what_is_asked_in_one_go_is_one_statement_up_to_so_much() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(&directory).await;
        let ids = store(&database, 3).await;
        let ask = async {
            let asked = Asked::of(database, None);
            let unknown = ObjectId::generate();
            let names = [ids[0], unknown, ids[2], ids[1], ids[0]];
            let answers = join_all(names.map(|id| asked.ask(id, 0))).await;
            let found: Vec<_> = answers
                .into_iter()
                .map(|answer| answer.unwrap().unwrap().map(|found| found.object.id))
                .collect();
            assert_eq!(found, [Some(ids[0]), None, Some(ids[2]), Some(ids[1]), Some(ids[0])]);
            assert_eq!(asked.statements(), 1);

            join_all((0..TOGETHER_MAX).map(|_| asked.ask(ids[0], 0))).await;
            assert_eq!(asked.statements(), 2);
            join_all((0..=TOGETHER_MAX).map(|_| asked.ask(ids[0], 0))).await;
            assert_eq!(asked.statements(), 4);
            assert_eq!(asked.places.available_permits(), 2 * TOGETHER_MAX);
        };
        LocalSet::new().run_until(ask).await;
    }

    #[tokio::test]
    async fn only_what_is_missing_or_lost_waits_for_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(&directory).await;
        let commits = [a_commit(None, 1, 1), a_commit(None, 2, 1)];
        let ids = commits.each_ref().map(|commit| commit.stored.object.id);
        let lost = commits[1].stored.location();
        let context =
            BatchContext { writer: InstanceId::from_i64(1), now: Timestamp::from_millis(0), tick: 0 };
        database.apply(&commits.map(Write::Commit), &mut 1, context).await.unwrap();
        assert!(database.mark(&lost, true).await.unwrap());
        let ask = async {
            let order = Arc::new(LogOrder::default());
            let asked = Asked::of(database, Some(order.clone()));
            let missing = ObjectId::generate();
            let (stands, mut damaged, mut unknown) =
                (asked.ask(ids[0], 1), asked.ask(ids[1], 1), asked.ask(missing, 1));
            let settled = asked.ask(missing, 0);
            assert_eq!(stands.await.unwrap().unwrap().unwrap().object.id, ids[0]);
            assert_eq!(settled.await.unwrap().unwrap(), None, "it asks for nothing that was not applied");
            // Both have said that they wait.
            order.wanted().await;
            assert!(damaged.try_recv().is_err() && unknown.try_recv().is_err());
            order.note_applied(1);
            assert!(damaged.await.unwrap().unwrap().unwrap().damaged);
            assert_eq!(unknown.await.unwrap().unwrap(), None);
        };
        LocalSet::new().run_until(ask).await;
    }

    #[tokio::test]
    async fn a_database_that_does_not_answer_refuses_all_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let database = open(&directory).await;
        let ids = store(&database, 2).await;
        database.close().await;
        let ask = async {
            let asked = Asked::of(database, None);
            for answer in join_all(ids.iter().map(|id| asked.ask(*id, 0))).await {
                assert_eq!(answer.unwrap(), Err(RepositoryError::Unavailable));
            }
            assert_eq!(asked.places.available_permits(), 2 * TOGETHER_MAX);
        };
        LocalSet::new().run_until(ask).await;
    }
}
