//! Who may use the API: keys, of which only hashes are kept.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::identity::{now, random_hex, sha256_hex};

const FILE: &str = "keys.json";
const ADMIN_FILE: &str = "admin-token.sha256";

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// The beginning of its hash; names it in metrics, in caches and to the admin.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sha256: String,
    /// Seconds since 1970; 0 for keys of the configuration.
    pub(crate) created: u64,
    #[serde(default)]
    pub(crate) revoked: bool,
}

/// A key that was just made. Its secret is shown once and kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Names the key to the admin.
    pub id: String,
    /// A word for people.
    pub name: String,
    /// What clients send.
    pub secret: String,
}

/// The keys of the configuration and those of the state directory.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
    of_config: Vec<Key>,
    /// As they are in the file.
    kept: RwLock<Vec<Key>>,
    admin_sha256: String,
}

impl Keys {
    /// Opens the keys. If a key is needed and there is none, one is made, and if the admin endpoints are on and have
    /// no token, so is that: both are returned to be shown.
    ///
    /// # Errors
    /// A state directory that cannot be read or written, or holds something else.
    pub fn open(config: &ServerConfig) -> Result<(Self, Option<NewKey>, Option<String>)> {
        let dir = config.state_dir()?;
        let of_config = config.keys.iter().map(|key| {
            let hash = key.sha256.as_ref().map(|hash| hash.to_lowercase());
            let sha256 = hash.unwrap_or_else(|| sha256_hex(key.key.as_deref().unwrap_or_default()));
            Key { id: id_of(&sha256), name: key.name.clone(), sha256, created: 0, revoked: false }
        });
        let of_config: Vec<Key> = of_config.collect();
        let kept = read_keys(&dir.join(FILE))?;
        let (admin_sha256, admin) = admin_token(config, &dir)?;
        let keys = Self { dir, of_config, kept: RwLock::new(kept), admin_sha256 };
        let none = keys.list().iter().all(|key| key.revoked);
        let made = if config.require_key && none { Some(keys.create("first")?) } else { None };
        Ok((keys, made, admin))
    }

    /// The key with this secret. Takes the same time for every secret.
    pub(crate) fn find(&self, secret: &str) -> Option<Key> {
        let hash = sha256_hex(secret);
        let mut found = None;
        for key in self.list() {
            if bool::from(key.sha256.as_bytes().ct_eq(hash.as_bytes())) && !key.revoked {
                found = Some(key);
            }
        }
        found
    }

    /// Whether this is the admin's token.
    pub(crate) fn is_admin(&self, secret: &str) -> bool {
        sha256_hex(secret).as_bytes().ct_eq(self.admin_sha256.as_bytes()).into()
    }

    /// All keys, revoked ones too.
    pub(crate) fn list(&self) -> Vec<Key> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        self.of_config.iter().chain(kept.iter()).cloned().collect()
    }

    /// Makes a key and keeps its hash.
    pub(crate) fn create(&self, name: &str) -> Result<NewKey> {
        let secret = format!("sk-{}", random_hex(24)?);
        let sha256 = sha256_hex(&secret);
        let key = Key { id: id_of(&sha256), name: name.to_owned(), sha256, created: now(), revoked: false };
        let new = NewKey { id: key.id.clone(), name: key.name.clone(), secret };
        self.change(|keys| keys.push(key))?;
        Ok(new)
    }

    /// Revokes a key of the state directory; `false` if there is none with this id.
    pub(crate) fn revoke(&self, id: &str) -> Result<bool> {
        let mut found = false;
        self.change(|keys| {
            for key in keys.iter_mut().filter(|key| key.id == id) {
                (key.revoked, found) = (true, true);
            }
        })?;
        Ok(found)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Key>)) -> Result<()> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = kept.clone();
        change(&mut changed);
        let json = serde_json::to_string_pretty(&changed)
            .map_err(|error| Error::State { file: self.dir.join(FILE), reason: error.to_string() })?;
        write_private(&self.dir, FILE, &json)?;
        *kept = changed;
        Ok(())
    }
}

fn id_of(sha256: &str) -> String {
    sha256[..12].to_owned()
}

fn read_keys(file: &Path) -> Result<Vec<Key>> {
    match std::fs::read_to_string(file) {
        Ok(text) => {
            let keys: Vec<Key> = serde_json::from_str(&text)
                .map_err(|error| Error::State { file: file.to_owned(), reason: error.to_string() })?;
            let ok = |key: &Key| key.sha256.len() == 64 && key.sha256.is_ascii();
            if keys.iter().all(ok) {
                Ok(keys)
            } else {
                Err(Error::State { file: file.to_owned(), reason: "a `sha256` is not 64 digits".to_owned() })
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io { file: file.to_owned(), action: "read", source }),
    }
}

/// The hash of the admin's token, and the token if it was just made.
fn admin_token(config: &ServerConfig, dir: &Path) -> Result<(String, Option<String>)> {
    if let Some(token) = &config.admin_token {
        return Ok((sha256_hex(token), None));
    }
    let file = dir.join(ADMIN_FILE);
    match std::fs::read_to_string(&file) {
        Ok(text) => return Ok((text.trim().to_owned(), None)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Io { file, action: "read", source }),
    }
    let token = format!("admin-{}", random_hex(24)?);
    let hash = sha256_hex(&token);
    if config.admin_listen.is_none() {
        return Ok((hash, None));
    }
    write_private(dir, ADMIN_FILE, &hash)?;
    Ok((hash, Some(token)))
}

/// Writes a file that only its owner can read, beside its place and then into it.
fn write_private(dir: &Path, name: &str, text: &str) -> Result<()> {
    let file = dir.join(name);
    let partial = dir.join(format!("{name}.partial"));
    let written = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut open = options.open(&partial)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        std::fs::rename(&partial, &file)
    };
    written().map_err(|source| Error::Io { file: file.clone(), action: "written", source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyConfig;

    fn config(dir: &Path) -> ServerConfig {
        ServerConfig { state_dir: Some(dir.join("state")), ..ServerConfig::default() }
    }

    #[test]
    fn the_first_start_makes_a_key_and_later_ones_know_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let (keys, made, admin) = Keys::open(&config).unwrap();
        let made = made.expect("a first key");
        assert_eq!(admin, None);
        assert_eq!(keys.find(&made.secret).unwrap().id, made.id);
        assert_eq!(keys.find("sk-wrong"), None);
        let text = std::fs::read_to_string(dir.path().join("state").join(FILE)).unwrap();
        assert!(!text.contains(&made.secret), "only the hash is kept");

        let (keys, again, _) = Keys::open(&config).unwrap();
        assert_eq!(again, None);
        assert!(keys.find(&made.secret).is_some());
        let second = keys.create("second").unwrap();
        assert!(keys.revoke(&made.id).unwrap());
        assert!(!keys.revoke("none").unwrap());
        let (keys, ..) = Keys::open(&config).unwrap();
        assert_eq!(keys.find(&made.secret), None);
        assert_eq!(keys.find(&second.secret).unwrap().name, "second");
    }

    #[test]
    fn keys_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let plain = KeyConfig { name: "a".to_owned(), key: Some("k".repeat(20)), sha256: None };
        let hashed =
            KeyConfig { name: "b".to_owned(), key: None, sha256: Some(sha256_hex("secret").to_uppercase()) };
        let config = ServerConfig { keys: vec![plain, hashed], ..config(dir.path()) };
        let (keys, made, _) = Keys::open(&config).unwrap();
        assert_eq!(made, None);
        assert_eq!(keys.find(&"k".repeat(20)).unwrap().name, "a");
        assert_eq!(keys.find("secret").unwrap().name, "b");
    }

    #[test]
    fn the_admin_has_another_token() {
        let dir = tempfile::tempdir().unwrap();
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let config = ServerConfig { admin_listen: listen, ..config(dir.path()) };
        let (keys, made, admin) = Keys::open(&config).unwrap();
        let (made, admin) = (made.unwrap(), admin.unwrap());
        assert!(keys.is_admin(&admin) && !keys.is_admin(&made.secret));
        assert_eq!(keys.find(&admin), None);
        let (keys, _, again) = Keys::open(&config).unwrap();
        assert!(again.is_none() && keys.is_admin(&admin));
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        std::fs::create_dir_all(dir.path().join("state")).unwrap();
        for text in ["{", "[{\"id\":\"\",\"name\":\"\",\"sha256\":\"\",\"created\":0}]"] {
            std::fs::write(dir.path().join("state").join(FILE), text).unwrap();
            assert!(matches!(Keys::open(&config), Err(Error::State { .. })), "{text}");
        }
    }
}
