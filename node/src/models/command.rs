//! `cairn models list` and `cairn models pull`.

use std::path::PathBuf;

use cairn_actors::{Models, Wanted};
use serde::Serialize;

use super::cache::Receipt;
use super::catalogue::CATALOGUE;
use super::{Cancel, Store};
use crate::cli::{ModelsArgs, ModelsCommand};
use crate::exit::{Exit, Failure};
use crate::home::Home;
use crate::signals::{Second, Signals};
use crate::terminal::{self, Paint, Progress, Table, Tone};

/// A line of `cairn models list --json`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    description: String,
    bytes: u64,
    sha256: String,
    /// Where it is on disk; `null` before it is pulled.
    path: Option<PathBuf>,
    source: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &ModelsArgs) -> Result<(), Failure> {
    let home = Home::of_user()?;
    match &args.command {
        ModelsCommand::List { json } => {
            let listed = list(&Store::new(&home.cache, Cancel::default()));
            match json {
                true => terminal::print_json(&listed)?,
                false => terminal::print_line(render(&listed, Paint::stdout()))?,
            }
            Ok(())
        }
        ModelsCommand::Pull { name, json } => {
            let located = pull(&home, name)?;
            let sha256 = super::Sha(located.sha256).to_string();
            match json {
                true => terminal::print_json(&serde_json::json!({
                    "name": located.name,
                    "path": located.path,
                    "bytes": located.file_bytes,
                    "sha256": sha256,
                }))?,
                false => terminal::print_line(format!(
                    "{}: {} at {}",
                    located.name,
                    terminal::size(located.file_bytes),
                    located.path.display()
                ))?,
            }
            Ok(())
        }
    }
}

/// Gets a model into the cache, with a progress display; Ctrl-C stops it and keeps the piece.
pub(crate) fn pull(home: &Home, name: &str) -> Result<cairn_actors::Located, Failure> {
    let cancel = Cancel::default();
    let signals = Signals::catch(Second::Exits)?;
    pull_until(home, name, &signals, &cancel)
}

/// The same with the caller's signals.
pub(crate) fn pull_until(
    home: &Home,
    name: &str,
    signals: &Signals,
    cancel: &Cancel,
) -> Result<cairn_actors::Located, Failure> {
    let store = Store::new(&home.cache, cancel.clone());
    let mut progress: Option<Progress> = None;
    let found = store.locate(&Wanted::Name(name.to_owned()), &mut |done, total| {
        if signals.came() {
            cancel.cancel();
        }
        progress
            .get_or_insert_with(|| Progress::new(name))
            .set(done, total);
    });
    drop(progress);
    found.map_err(|error| match signals.came() {
        true => Failure::interrupted(),
        false => Failure::new(Exit::Model, error),
    })
}

fn list(store: &Store) -> Vec<Listed> {
    let receipts = store.cache.receipts();
    let of_catalogue = CATALOGUE.iter().map(|entry| {
        let sha = entry.sha256();
        let receipt = receipts.iter().find(|receipt| receipt.sha256 == sha);
        Listed {
            name: entry.name.to_owned(),
            description: entry.description.to_owned(),
            bytes: entry.bytes,
            sha256: sha.to_string(),
            path: receipt.map(|receipt| receipt.path.clone()),
            source: receipt.map(|receipt| receipt.source.clone()),
        }
    });
    let known = |receipt: &&Receipt| {
        !CATALOGUE
            .iter()
            .any(|entry| entry.sha256() == receipt.sha256)
    };
    let others = receipts.iter().filter(known).map(|receipt| Listed {
        name: receipt.name.clone(),
        description: String::new(),
        bytes: receipt.bytes,
        sha256: receipt.sha256.to_string(),
        path: Some(receipt.path.clone()),
        source: Some(receipt.source.clone()),
    });
    of_catalogue.chain(others).collect()
}

fn render(listed: &[Listed], paint: Paint) -> String {
    let mut table = Table::new(&["NAME", "SIZE", "ON DISK", "SHA-256", "WHAT"]);
    for one in listed {
        let row = table.row();
        row.toned(Tone::Strong, &*one.name)
            .cell(terminal::size(one.bytes));
        match one.path {
            Some(_) => row.toned(Tone::Good, "yes"),
            None => row.toned(Tone::Dim, "no"),
        };
        row.toned(Tone::Dim, &one.sha256[..12])
            .cell(&*one.description);
    }
    table.render(paint)
}
