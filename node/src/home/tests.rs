//! Directories, identities and memberships on a real disk.

use super::*;
use crate::config::ClusterWish;
use crate::join::JoinLine;

fn home(dir: &tempfile::TempDir) -> Home {
    Home {
        data: dir.path().join("data"),
        cache: dir.path().join("cache"),
        config_file: dir.path().join("config.toml"),
    }
}

fn nothing_said() -> ClusterWish {
    ClusterWish::Named {
        cluster: None,
        secret: None,
    }
}

#[test]
fn nodes_that_run_together_get_directories_of_their_own_and_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let home = home(&dir);
    let first = NodeDir::claim_free(&home).unwrap();
    let second = NodeDir::claim_free(&home).unwrap();
    assert_ne!(first.path, second.path);
    assert_ne!(first.identity, second.identity);
    assert_ne!(first.default_name, second.default_name);
    let (path, identity) = (first.path.clone(), first.identity);
    drop(first);
    let again = NodeDir::claim_free(&home).unwrap();
    assert_eq!((again.path.clone(), again.identity), (path, identity));
}

#[test]
fn a_named_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine");
    let owner = NodeDir::claim(&path).unwrap();
    let refusal = NodeDir::claim(&path).unwrap_err().to_string();
    assert!(refusal.contains("mine"), "{refusal}");
    owner.remove();
    assert!(!path.exists());
}

#[test]
fn a_damaged_identity_is_named_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine");
    drop(NodeDir::claim(&path).unwrap());
    std::fs::write(path.join("identity"), "short").unwrap();
    let error = NodeDir::claim(&path).unwrap_err().to_string();
    assert!(error.contains("identity"), "{error}");
}

#[test]
fn one_user_has_one_secret() {
    let dir = tempfile::tempdir().unwrap();
    let home = home(&dir);
    let mut warnings = Vec::new();
    let made: Vec<Membership> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| Membership::settle(&home, &nothing_said(), &mut Vec::new()).unwrap())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(made.iter().all(|one| one == &made[0]), "{made:?}");
    let named = ClusterWish::Named {
        cluster: Some("other".to_owned()),
        secret: None,
    };
    let other = Membership::settle(&home, &named, &mut warnings).unwrap();
    assert_eq!(other.cluster, "other");
    assert_eq!(other.secret, made[0].secret);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn a_join_line_is_remembered_and_what_it_replaces_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let home = home(&dir);
    let mut warnings = Vec::new();
    let own = Membership::settle(&home, &nothing_said(), &mut warnings).unwrap();
    let line = JoinLine {
        cluster: "home".to_owned(),
        secret: "0123456789abcdef".to_owned(),
        peers: Vec::new(),
    };
    let joined = Membership::settle(&home, &ClusterWish::Join(line), &mut warnings).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let later = Membership::settle(&home, &nothing_said(), &mut warnings).unwrap();
    assert_eq!(later, joined);
    let kept = std::fs::read_to_string(home.data.join("cluster-cairn.toml")).unwrap();
    assert!(kept.contains(&own.secret));
}

#[cfg(unix)]
#[test]
fn secrets_are_private_and_open_files_earn_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let home = home(&dir);
    let mut warnings = Vec::new();
    Membership::settle(&home, &nothing_said(), &mut warnings).unwrap();
    let path = home.data.join("cluster.toml");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    Membership::settle(&home, &nothing_said(), &mut warnings).unwrap();
    assert!(warnings[0].contains("chmod 600"), "{warnings:?}");
}
