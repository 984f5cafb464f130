//! Model files: the real one where its answers matter, made-up ones where only the cluster does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cairn_engine::fixtures::TinyModel;
use serde_json::Value;

use crate::node::PROGRAM;

/// What a cluster serves and where its nodes keep what they know about files.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// As `--model` has it.
    pub(crate) name: OsString,
    /// `None` is the user's own cache.
    pub(crate) cache: Option<PathBuf>,
}

/// The default model; downloaded into the user's cache by the first test that needs it.
///
/// `CAIRN_TEST_MODEL` names a file to use instead.
pub(crate) fn real() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    let find = || {
        let given = std::env::var_os("CAIRN_TEST_MODEL");
        let name = given.unwrap_or_else(|| "smollm2".into());
        let mut pull = Command::new(PROGRAM);
        let pulled = pull
            .args(["models", "pull", "--json"])
            .arg(&name)
            .output()
            .expect("the program starts");
        assert!(
            pulled.status.success(),
            "the model cannot be had: {}",
            String::from_utf8_lossy(&pulled.stderr)
        );
        let told: Value = serde_json::from_slice(&pulled.stdout).expect("pull answers JSON");
        assert!(told["path"].is_string(), "{told}");
        Model { name, cache: None }
    };
    MODEL.get_or_init(find).clone()
}

/// A made-up model of this many layers, as a file in `dir`.
///
/// It claims a long context, so that an answer lasts until a test has had its way with it.
pub(crate) fn tiny(dir: &Path, layers: u32) -> Model {
    let path = dir.join(format!("tiny-{layers}.gguf"));
    let shape = TinyModel {
        context: 1 << 16,
        ..TinyModel::new(layers)
    };
    std::fs::write(&path, shape.gguf()).expect("a temporary directory can be written");
    Model {
        name: path.into_os_string(),
        cache: Some(dir.join("cache")),
    }
}
