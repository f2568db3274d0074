//! `datum-connect key`.

use masque_client::{ConnectorIdentity, KeyFileError, ManifestInput, manifests, resource_name};

use crate::{
    args::KeyArgs,
    dirs::Dirs,
    failure::{Exit, Failure},
    profile::ConnectorSettings,
};

/// Makes the key if there is none, prints what lets it in. Standard output is what `kubectl apply` and
/// a gateway's folder of manifests take; everything else goes to standard error.
pub(crate) fn run(args: &KeyArgs, dirs: &Dirs) -> Result<(), Failure> {
    let path = dirs.key_file(args.key.as_deref());
    let identity = match ConnectorIdentity::load(&path) {
        Ok(identity) => identity,
        Err(KeyFileError::Missing { .. }) => {
            let identity = ConnectorIdentity::generate()?;
            identity.save(&path)?;
            say!("made {}", path.display());
            identity
        }
        Err(error) => return Err(error.into()),
    };
    let id = identity.public_id();
    if args.id {
        return super::print(&format!("{id}\n"));
    }
    let mut settings = ConnectorSettings::of_key(dirs, &path)?;
    if let Some(name) = &args.name {
        check_name(name)?;
        settings.name = Some(name.clone());
        settings.save(dirs)?;
    }
    let connector = settings.connector();
    if args.json {
        return super::print_json(&serde_json::json!({
            "connector": connector,
            "id": id.hex(),
            "zBase32": id.z_base_32(),
            "file": path,
        }));
    }
    let allowed_routes: Vec<String> = args
        .allowed_routes
        .iter()
        .map(ToString::to_string)
        .collect();
    let yaml = manifests(&ManifestInput {
        connector: &connector,
        id,
        vpc: args.vpc.as_ref(),
        attachment: None,
        namespace: args.namespace.as_deref(),
        home_relay: &args.home_relay,
        allowed_routes: &allowed_routes,
    });
    let header = format!(
        "# public key: {id}\n\
         # z-base-32:  {}\n\
         # Save this in the folder of manifests of a standalone gateway, or apply it to a cluster.\n\
         # Where the Connector resource has a status subresource, apply the status too:\n\
         #   datum-connect key | kubectl apply --server-side --subresource=status -f -\n",
        id.z_base_32()
    );
    super::print(&(header + &yaml))
}

fn check_name(name: &str) -> Result<(), Failure> {
    let nearest = resource_name(name);
    if nearest == name {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("{name:?} is no name of a Kubernetes resource"),
        format!("use `--name {nearest}`"),
    ))
}
