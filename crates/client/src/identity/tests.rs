use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_saved_key_comes_back() {
    let folder = folder();
    let path = folder.path().join("deep/key.pem");
    let made = ConnectorIdentity::generate().unwrap();
    made.save(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let read = ConnectorIdentity::load(&path).unwrap();
    assert_eq!(read.public_id(), made.public_id());
    assert_eq!(
        read.sign(b"x"),
        made.sign(b"x"),
        "Ed25519 signatures are deterministic"
    );
}

#[test]
fn a_key_is_never_replaced() {
    let folder = folder();
    let path = folder.path().join("key.pem");
    ConnectorIdentity::generate().unwrap().save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let again = ConnectorIdentity::generate().unwrap().save(&path);
    assert!(
        matches!(again, Err(KeyFileError::Exists { .. })),
        "{again:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let folder = folder();
    let path = folder.path().join("key.pem");
    let text = |path: &Path| ConnectorIdentity::load(path).unwrap_err().to_string();
    assert!(
        text(&path).contains("`datum-connect key` makes one"),
        "{}",
        text(&path)
    );

    ConnectorIdentity::generate().unwrap().save(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(text(&path).contains("mode 644") && text(&path).contains("chmod 600"));

    fs::write(&path, "nothing").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(
        text(&path).contains("no Ed25519 private key"),
        "{}",
        text(&path)
    );

    fs::write(
        &path,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    assert!(
        text(&path).contains("no Ed25519 private key"),
        "{}",
        text(&path)
    );
}

#[test]
fn ids_have_the_documented_lengths_and_debug_hides_the_secret() {
    let identity = ConnectorIdentity::generate().unwrap();
    let id = identity.public_id();
    assert_eq!((id.hex().len(), id.z_base_32().len()), (64, 52));
    assert_eq!(
        format!("{identity:?}"),
        format!("ConnectorIdentity({})", id.hex())
    );
    // All zero bits are the first symbol of the alphabet.
    assert_eq!(PublicId([0; 32]).z_base_32(), "y".repeat(52));
}

#[test]
fn the_seed_makes_the_same_key() {
    let identity = ConnectorIdentity::generate().unwrap();
    let public = identity.public_id();
    let again = Ed25519KeyPair::from_seed_unchecked(&identity.seed()).unwrap();
    assert_eq!(again.public_key().as_ref(), public.as_bytes());
}
