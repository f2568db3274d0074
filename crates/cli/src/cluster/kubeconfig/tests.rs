use super::*;

/// The files for a person with these variables, where only `there` exist.
fn files(variables: &[(&str, &str)], is_root: bool, there: &[&str]) -> Vec<PathBuf> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| OsString::from(value))
    };
    let surroundings = Surroundings {
        variable: &variable,
        home_of: &|user| (user == "ada").then(|| "/home/ada".into()),
        exists: &|path| there.iter().any(|one| path == Path::new(one)),
        is_root,
    };
    surroundings.files(None)
}

const ROOTS: &str = "/home/super/.kube/config";
const ADAS: &str = "/home/ada/.kube/config";

#[test]
fn sudo_looks_where_its_caller_does() {
    let sudo = [("HOME", "/home/super"), ("SUDO_USER", "ada")];
    assert_eq!(files(&sudo, true, &[ADAS]), [PathBuf::from(ADAS)]);
    assert_eq!(
        files(&sudo, true, &[ADAS, ROOTS]),
        [PathBuf::from(ROOTS)],
        "root's own comes first"
    );
    assert_eq!(
        files(&sudo, true, &[]),
        [PathBuf::from(ROOTS)],
        "told as missing"
    );
    assert_eq!(
        files(&sudo, false, &[ADAS]),
        [PathBuf::from(ROOTS)],
        "anybody can set SUDO_USER"
    );
    let unknown = [("HOME", "/home/super"), ("SUDO_USER", "eve")];
    assert_eq!(files(&unknown, true, &[ADAS]), [PathBuf::from(ROOTS)]);
}

#[test]
fn the_variable_holds_a_list_and_wins_over_the_home_folder() {
    let both = [("KUBECONFIG", ":/a:/b:"), ("HOME", "/home/super")];
    assert_eq!(
        files(&both, true, &[ROOTS]),
        [PathBuf::from("/a"), PathBuf::from("/b")]
    );
    let empty = [("KUBECONFIG", ""), ("HOME", "/home/super")];
    assert_eq!(files(&empty, true, &[ROOTS]), [PathBuf::from(ROOTS)]);
    assert!(files(&[], true, &[]).is_empty());
}

const TEXT: &str = r#"
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: here, context: {cluster: c, user: u, namespace: team}}]
users: [{name: u, user: {token: t}}]
"#;

async fn loaded(text: &str, context: Option<&str>) -> Result<Config, Failure> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(&file, text).unwrap();
    load(Some(&file), context).await
}

fn said(text: &str, context: Option<&str>) -> (Exit, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let failure = runtime.block_on(loaded(text, context)).unwrap_err();
    (failure.exit, failure.to_string())
}

#[test]
fn says_which_contexts_there_are() {
    let (exit, text) = said(TEXT, None);
    assert_eq!(exit, Exit::Config);
    assert!(
        text.ends_with("no current context; its contexts are here: `--context NAME`"),
        "{text}"
    );
    let (_, text) = said(TEXT, Some("there"));
    assert!(
        text.contains("no context there; its contexts are here"),
        "{text}"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let config = runtime.block_on(loaded(TEXT, Some("here"))).unwrap();
    assert_eq!(config.default_namespace, "team");
}

#[test]
fn a_file_that_is_none_is_told() {
    let (exit, text) = said("{", None);
    assert_eq!(exit, Exit::Config);
    assert!(text.contains("cannot be used"), "{text}");
    let failure = read(&["/nowhere/config".into()]).unwrap_err();
    assert_eq!(failure.exit, Exit::NoInput);
    assert!(
        failure.to_string().contains("--kubeconfig FILE"),
        "{failure}"
    );
}
