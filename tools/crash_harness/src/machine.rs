//! What the server runs on, and how it is taken away.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::disk::{Disk, DiskKind};
use crate::server::Places;

/// Kills the server and what works beside it.
pub(crate) type EndProcesses<'a> = &'a dyn Fn() -> Result<()>;

/// Something that can be cut and comes back.
pub(crate) trait Machine {
    /// Where the server keeps its data.
    fn places(&self) -> Places;
    /// Takes the processes away, and with them whatever this machine loses.
    fn cut(&mut self, end_processes: EndProcesses<'_>) -> Result<()>;
    /// Makes ready for the next start, once the server is gone.
    fn recover(&mut self) -> Result<()>;
    /// Leaves nothing behind but the data.
    fn finish(&mut self) -> Result<()>;
}

/// A directory on the machine's own file system: `kill -9`.
pub(crate) struct PlainDirectory(Places);

impl PlainDirectory {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        make_empty(directory)?;
        Ok(Self(Places::together(directory.join("data"))))
    }
}

impl Machine for PlainDirectory {
    fn places(&self) -> Places {
        self.0.clone()
    }

    fn cut(&mut self, end_processes: EndProcesses<'_>) -> Result<()> {
        end_processes()
    }

    fn recover(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Disks that lose whatever was not synced.
pub(crate) struct PowerCutMachine {
    disks: Vec<Disk>,
    /// Whether the processes live on for a moment. On one disk alone they may: what it then acknowledges wrongly (see
    /// `work::perform`) leads to nothing that lasts. What one of two does leads to writes on the other.
    disks_go_first: bool,
    places: Places,
}

impl PowerCutMachine {
    /// Everything on one disk.
    pub(crate) fn with_one_disk(directory: &Path, kind: DiskKind) -> Result<Self> {
        make_empty(directory)?;
        let disk = Disk::new(directory, kind)?;
        let places = Places::together(disk.mount_path().join("data"));
        Ok(Self { disks: vec![disk], disks_go_first: true, places })
    }

    /// The database on a disk of its own, so that its syncs say nothing about the roots' journal.
    pub(crate) fn with_separate_database(directory: &Path, kind: DiskKind) -> Result<Self> {
        make_empty(directory)?;
        let database = Disk::new(&directory.join("database"), kind)?;
        let roots = Disk::new(&directory.join("roots"), kind)?;
        let places = Places::apart(database.mount_path().join("data"), roots.mount_path().join("data"));
        Ok(Self { disks: vec![database, roots], disks_go_first: false, places })
    }
}

impl Machine for PowerCutMachine {
    fn places(&self) -> Places {
        self.places.clone()
    }

    fn cut(&mut self, end_processes: EndProcesses<'_>) -> Result<()> {
        let mut lose = || self.disks.iter_mut().try_for_each(Disk::lose);
        if self.disks_go_first {
            // With clients and server at full speed; the processes see errors before they are gone too.
            let lost = lose();
            return end_processes().and(lost);
        }
        end_processes()?;
        lose()
    }

    fn recover(&mut self) -> Result<()> {
        self.disks.iter_mut().try_for_each(|disk| {
            disk.detach()?;
            disk.attach()
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.disks.iter_mut().try_for_each(Disk::detach)
    }
}

fn make_empty(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    match fs::read_dir(directory)?.next() {
        None => Ok(()),
        Some(_) => bail!("{} is not empty", directory.display()),
    }
}
