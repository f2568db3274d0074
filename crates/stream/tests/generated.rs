//! The committed code is what the proto file says. `UPDATE_GENERATED=1 cargo test -p masque-stream
//! --test generated` writes it anew; nobody needs protoc.

use std::{fs, path::Path};

#[test]
fn the_generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["snapshot.proto"], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .bytes(".networking.datumapis.com.stream.v1.Snapshot.payload")
        .out_dir(out.path())
        .compile_fds(files)
        .unwrap();
    let name = "networking.datumapis.com.stream.v1.rs";
    let fresh = fs::read_to_string(out.path().join(name)).unwrap();
    let committed = root.join("src/wire").join(name);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::create_dir_all(root.join("src/wire")).unwrap();
        fs::write(&committed, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&committed).unwrap() == fresh,
        "src/wire/{name} is not what proto/snapshot.proto says; run with UPDATE_GENERATED=1"
    );
}
