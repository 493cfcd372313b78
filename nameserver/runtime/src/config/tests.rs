use std::collections::HashMap;

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    listen: String,
    #[serde(deserialize_with = "comma_list")]
    name_servers: Vec<String>,
    queue_limit: u32,
    store: Store,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Store {
    flush: bool,
    flush_interval: TimeSpan,
    segment_size: ByteSize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:1".into(), name_servers: vec![], queue_limit: 8, store: Store::default() }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            flush: true,
            flush_interval: TimeSpan::from_millis(500),
            segment_size: ByteSize::from_bytes(1 << 30),
        }
    }
}

fn load_with(
    file: Option<&str>,
    env: &[(&str, &str)],
    flags: &[(&str, Option<String>)],
) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.toml");
    let variables = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let environment = Environment::default().source(Some(HashMap::from_iter(variables)));
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    load_from(file.map(|_| path.as_path()), "KX", environment, flags)
}

#[test]
fn later_layers_win() {
    let file = "listen = 'file'\nqueue-limit = 1\nname-servers = ['a', 'b']\n[store]\nflush = false\nflush-interval = '6s'";
    assert_eq!(load_with(None, &[], &[]).unwrap(), Settings::default());
    let env = [("KX__STORE__FLUSH_INTERVAL", "2h"), ("KX__QUEUE_LIMIT", "2"), ("OTHER__X", "1")];
    let flags = [("queue-limit", Some("3".to_owned())), ("listen", None)];
    let loaded = load_with(Some(file), &env, &flags).unwrap();
    let store = Store { flush: false, flush_interval: TimeSpan::from_secs(7200), ..Store::default() };
    let name_servers = vec!["a".into(), "b".into()];
    assert_eq!(loaded, Settings { listen: "file".into(), name_servers, queue_limit: 3, store });
    let loaded =
        load_with(None, &[("KX__STORE__FLUSH", "false"), ("KX__NAME_SERVERS", "c, d")], &[]).unwrap();
    assert_eq!((loaded.store.flush, loaded.name_servers), (false, vec!["c".into(), "d".into()]));
}

#[test]
fn faults_name_the_key_and_in_the_file_the_line() {
    let error = |file, env: &[(&str, &str)]| load_with(file, env, &[]).unwrap_err().to_string();
    for (file, parts) in [
        ("listen = 'x'\nlistn = 'y'", ["broker.toml", "line 2", "listn"]),
        ("[store]\nflush-interval = '6 parsecs'", ["line 2", "6 parsecs", "500ms"]),
        ("queue-limit = 'many'", ["line 1", "queue-limit", "many"]),
        ("listen = ", ["line 1", "listen", "broker.toml"]),
    ] {
        let text = error(Some(file), &[]);
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    for (variable, value, parts) in [
        ("KX__STORE__FLUSHH", "x", ["flushh", "KX__"]),
        ("KX__QUEUE_LIMIT", "many", ["queue-limit", "many"]),
        ("KX__STORE__SEGMENT_SIZE", "1GB", ["segment-size", "1GB"]),
    ] {
        let text = error(None, &[(variable, value)]);
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let settings = Settings { name_servers: vec!["a".into()], ..Settings::default() };
    let text = print(&settings).unwrap();
    assert!(
        text.contains("flush-interval = \"500ms\"") && text.contains("segment-size = \"1GiB\""),
        "{text}"
    );
    assert_eq!(load_with(Some(&text), &[], &[]).unwrap(), settings);
}

#[test]
fn units_are_read_and_printed() {
    for text in ["0ms", "1ms", "1500ms", "90s", "2h", "7d"] {
        assert_eq!(text.parse::<TimeSpan>().unwrap().to_string(), text);
    }
    for text in ["0B", "1000B", "64KiB", "64MiB", "1GiB", "2TiB"] {
        assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
    }
    assert_eq!("60 s".parse::<TimeSpan>().unwrap().to_string(), "1m");
    for bad in ["", "5", "s", "-1s", "1.5s", "1 week", "99999999999999999999s", "18446744073709551615d"] {
        assert!(bad.parse::<TimeSpan>().is_err(), "{bad}");
    }
    assert!("1GB".parse::<ByteSize>().is_err());
}
