//! A pod's volumes as a kubelet fills them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{KeyToPath, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{ResourceExt as _, api::PostParams};

use crate::Space;

/// Path in the volume and content.
type Files = Vec<(String, Vec<u8>)>;

/// Fills every volume of `pod` that is a Secret or a projection, each in the folder of its name.
pub(crate) async fn fill(space: &Space, pod: &Pod, folder: &Path) {
    let spec = pod.spec.as_ref().expect("a pod has a spec");
    for volume in spec.volumes.iter().flatten() {
        let mut files = Files::new();
        if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            files = secret_files(space, name, secret.items.as_deref(), false).await;
        } else if let Some(projected) = &volume.projected {
            for source in projected.sources.iter().flatten() {
                if let Some(secret) = &source.secret {
                    let optional = secret.optional == Some(true);
                    let items = secret.items.as_deref();
                    files.extend(secret_files(space, &secret.name, items, optional).await);
                }
                if let Some(wanted) = &source.service_account_token {
                    let account = spec.service_account_name.as_deref();
                    let account = account.expect("a pod has an account");
                    let content = token(space, account, Some(pod), wanted).await;
                    files.push((wanted.path.clone(), content.into_bytes()));
                }
            }
        }
        let root = folder.join(&volume.name);
        fs::create_dir_all(&root).expect("a folder");
        if !files.is_empty() {
            replace(&root, &files);
        }
    }
}

/// A token of an account, bound to a pod unless there is none.
pub(crate) async fn token(
    space: &Space,
    account: &str,
    pod: Option<&Pod>,
    wanted: &ServiceAccountTokenProjection,
) -> String {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: wanted.audience.iter().cloned().collect(),
            expiration_seconds: wanted.expiration_seconds,
            bound_object_ref: pod.map(|pod| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.uid(),
            }),
        },
        ..TokenRequest::default()
    };
    let accounts = space.api::<ServiceAccount>();
    let params = PostParams::default();
    let made = accounts.create_token_request(account, &params, &request);
    let made = made.await.unwrap_or_else(|e| panic!("token: {e}"));
    made.status.expect("a token").token
}

/// A token of an account for the API server.
pub(crate) async fn account_token(space: &Space, account: &str) -> String {
    let wanted = ServiceAccountTokenProjection {
        audience: None,
        expiration_seconds: Some(3600),
        path: String::new(),
    };
    token(space, account, None, &wanted).await
}

async fn secret_files(
    space: &Space,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
) -> Files {
    let found = space.api::<Secret>().get_opt(name).await.expect("the API");
    let Some(secret) = found else {
        assert!(optional, "no Secret {name}: a kubelet would wait for it");
        return Files::new();
    };
    let data = secret.data.unwrap_or_default();
    match items {
        None => data.into_iter().map(|(key, it)| (key, it.0)).collect(),
        Some(items) => {
            let found =
                |item: &KeyToPath| Some((item.path.clone(), data.get(&item.key)?.0.clone()));
            items.iter().filter_map(found).collect()
        }
    }
}

/// All files change at one moment, by a link that is replaced, as in a kubelet's atomic writer.
fn replace(root: &Path, files: &Files) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let version = format!("..{}", now.expect("a clock").as_nanos());
    for (path, content) in files {
        let file = root.join(&version).join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, content).expect("a file");
    }
    symlink(&version, root.join("..data_tmp")).expect("a link");
    fs::rename(root.join("..data_tmp"), root.join("..data")).expect("a rename");
    for (path, _) in files {
        let first = path.split('/').next().unwrap_or_default();
        if fs::symlink_metadata(root.join(first)).is_err() {
            symlink(Path::new("..data").join(first), root.join(first)).expect("a link");
        }
    }
}
