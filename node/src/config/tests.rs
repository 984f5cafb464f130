//! Merging and checking of wishes.

use super::*;

fn wishes(text: &str) -> Wishes {
    toml::from_str(text).expect("test text is TOML of wishes")
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let flags = wishes("name = 'flag'\npeers = ['127.0.0.1:1']");
    let file = wishes("name = 'file'\nmodel = 'm.gguf'\npeers = ['127.0.0.1:2']\nno-mdns = true");
    let settings = flags.or(file).check(None, 6).unwrap();
    assert_eq!(settings.name.as_deref(), Some("flag"));
    assert_eq!(settings.model.as_deref(), Some("m.gguf"));
    assert_eq!(
        settings.peers,
        ["127.0.0.1:1".parse::<SocketAddr>().unwrap()]
    );
    assert_eq!(settings.mdns_port, None);
    assert_eq!(settings.threads, 6);
    assert_eq!(settings.context, CONTEXT);
    assert_eq!(settings.strategy, Strategy::Optimal);
}

#[test]
fn all_faults_come_together() {
    let wrong = wishes(
        "name = 'a b'\ncluster = ''\nsecret = ' '\npeers = ['nowhere']\nhttp = '1.2.3.4'\n\
         listen = 'x:y'\nstrategy = 'best'\ncontext = 0\nsequences = 0\nthreads = 0\n\
         device = 'tpu'\nmemory = 'much'\nmodel = ''",
    );
    let Faults(faults) = wrong.check(None, 1).unwrap_err();
    for field in [
        "name",
        "cluster",
        "secret",
        "peer",
        "http",
        "listen",
        "strategy",
        "context",
        "sequences",
        "threads",
        "device",
        "memory",
        "model",
    ] {
        let count = faults
            .iter()
            .filter(|fault| fault.starts_with(&format!("{field}: ")))
            .count();
        assert_eq!(count, 1, "{field} in {faults:#?}");
    }
    assert_eq!(faults.len(), 13);
}

#[test]
fn an_unknown_key_of_the_file_is_named() {
    let error = toml::from_str::<Wishes>("modle = 'x'").unwrap_err();
    assert!(error.to_string().contains("modle"), "{error}");
}

#[test]
fn a_cache_of_16_bits_is_for_cpus() {
    let settings = wishes("kv-cache = 'i16'").check(None, 1).unwrap();
    assert_eq!(settings.kv_cache, CacheFormat::I16);
    assert_eq!(settings.warnings, [""; 0]);
    let settings = wishes("kv-cache = 'i16'\ndevice = 'cuda:0'")
        .check(None, 1)
        .unwrap();
    assert!(
        settings.warnings[0].contains("i16 is for CPUs"),
        "{settings:?}"
    );
    assert_eq!(settings.kv_cache, CacheFormat::F32, "as it is kept there");
    let error = toml::from_str::<Wishes>("kv-cache = 'i8'").unwrap_err();
    assert!(error.to_string().contains("i16"), "{error}");
}

#[test]
fn a_short_secret_is_a_warning_and_a_wrong_join_line_a_fault() {
    let settings = wishes("secret = 'short'").check(None, 1).unwrap();
    assert_eq!(settings.warnings.len(), 1);
    let Faults(faults) = Wishes::default().check(Some("cairn1-zzz"), 1).unwrap_err();
    assert!(faults[0].starts_with("join: "), "{faults:?}");
}

#[test]
fn a_join_line_brings_cluster_secret_and_peers() {
    let line = JoinLine {
        cluster: "home".to_owned(),
        secret: "0123456789abcdef".to_owned(),
        peers: vec!["192.168.1.20:4801".parse().unwrap()],
    };
    let settings = Wishes::default().check(Some(&line.to_string()), 1).unwrap();
    assert_eq!(settings.peers, line.peers);
    assert_eq!(settings.cluster, ClusterWish::Join(line));
}

#[test]
fn sizes() {
    let table = [
        ("1536", Some(1536)),
        ("512MiB", Some(512 << 20)),
        ("2G", Some(2 << 30)),
        ("1.5 GB", Some(1_500_000_000)),
        ("0", Some(0)),
        ("", None),
        ("GiB", None),
        ("-1", None),
        ("1.2.3", None),
        ("5 parsecs", None),
        ("99999999999T", None),
    ];
    for (text, expected) in table {
        assert_eq!(parse_size(text).ok(), expected, "{text}");
    }
}

#[test]
fn a_missing_file_is_a_fault_only_where_it_was_named() {
    let missing = Path::new("/nonexistent/cairn.toml");
    assert!(Wishes::read(None, missing).is_ok());
    assert!(Wishes::read(Some(missing), missing).is_err());
}
