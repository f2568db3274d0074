//! `attach --kubeconfig` against what is no proper cluster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Command,
    thread,
};

use serde_json::{Value, json};

/// A kubeconfig with this cluster and user; exit status and last line of the command.
fn attach(server: &str, user: &Value) -> (i32, String) {
    attach_as(server, user, &[])
}

/// The same with more flags.
fn attach_as(server: &str, user: &Value, more: &[&str]) -> (i32, String) {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_datum-connect"))
            .env_clear()
            .env("DATUM_CONNECT_DIR", home.path().join("config"))
            .env("DATUM_CONNECT_STATE_DIR", home.path().join("state"))
            // As a person has it who never named a file.
            .env("KUBECONFIG", home.path().join("kubeconfig"))
            .args(arguments)
            .output()
            .unwrap()
    };
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(home.path().join("kubeconfig"), config.to_string()).unwrap();
    assert!(run(&["key"]).status.success());
    let flags = ["attach", "--vpc", "prod", "--no-tun", "--kubeconfig"];
    let ran = run(&[&flags[..], more].concat());
    let stderr = String::from_utf8(ran.stderr).unwrap();
    let told: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.starts_with("  "))
        .collect();
    assert_eq!(told.len(), 1, "one line says it: {stderr}");
    (ran.status.code().unwrap(), told[0].to_owned())
}

/// Answers every request with this status and body.
fn server(status: &'static str, body: &'static str) -> String {
    serve(move |_| (status, body.to_owned()))
}

/// Answers requests, each given as its first line, with a status and a body.
fn serve(mut answer: impl FnMut(&str) -> (&'static str, String) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
            let (status, body) = answer(&head.next().unwrap_or_default());
            head.take_while(|line| !line.is_empty()).for_each(drop);
            let length = body.len();
            let mut writer = &stream;
            write!(
                writer,
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    address
}

#[test]
fn says_what_is_wrong_with_a_cluster_in_one_line() {
    let token = json!({"token": "t"});
    for (status, body, code, part) in [
        (
            "404 Not Found",
            "404 page not found",
            69,
            "helm install masque-gateway-crds",
        ),
        (
            "401 Unauthorized",
            r#"{"kind":"Status","status":"Failure","message":"Unauthorized","code":401}"#,
            77,
            "log in again",
        ),
        ("401 Unauthorized", "a proxy's page", 77, "log in again"),
        ("500 Oops", "{}", 69, "is it a Kubernetes API server?"),
        ("200 OK", "<html>", 69, "is it a Kubernetes API server?"),
        (
            "200 OK",
            "{\"metadata\":{},\"items\":[]}",
            78,
            "--namespace NAMESPACE",
        ),
    ] {
        let (exit, line) = attach(&server(status, body), &token);
        assert_eq!(exit, code, "{line}");
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_login_program_that_fails_is_quoted() {
    let exec = |command: &str| {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": command, "args": ["-c", "echo token expired >&2; exit 3"],
        }})
    };
    let (exit, line) = attach("https://127.0.0.1:9", &exec("/bin/sh"));
    assert_eq!(exit, 77, "{line}");
    assert!(
        line.contains("failed (exit status: 3): token expired; does `kubectl"),
        "{line}"
    );
    let (exit, line) = attach("https://127.0.0.1:9", &exec("/nowhere/login"));
    assert_eq!(exit, 77, "{line}");
    assert!(line.contains("login program cannot be started"), "{line}");
}

#[test]
fn a_cluster_that_is_away_is_told() {
    let (exit, line) = attach("http://127.0.0.1:9", &json!({"token": "t"}));
    assert_eq!(exit, 69, "{line}");
    assert!(
        line.contains("http://127.0.0.1:9 cannot be reached: "),
        "{line}"
    );
}

/// The answers of a namespace whose Connector is changed by a controller `changes` times between
/// each look at it and the write of its key; then it ends with 403.
fn busy(changes: usize) -> String {
    let mut version = 1;
    let mut patches = 0;
    serve(move |request| {
        let path = request.split([' ', '?']).nth(1).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let vpc = json!({"name": "prod"});
        let connector = json!({
            "apiVersion": "networking.datumapis.com/v1alpha1", "kind": "Connector",
            "metadata": {"name": "laptop", "resourceVersion": version.to_string()},
            "spec": {"connectorClassName": "c"},
        });
        let item = match (request.starts_with("PATCH"), name) {
            (true, _) if patches < changes => {
                patches += 1;
                version += 1;
                let body = json!({"kind": "Status", "status": "Failure", "code": 409,
                    "message": "the object has been modified", "reason": "Conflict"});
                return ("409 Conflict", body.to_string());
            }
            (true, _) | (_, "laptop") => return ("200 OK", connector.to_string()),
            (_, "vpcingresspoints") => json!({"metadata": {"name": "edge"},
                "spec": {"vpcRef": vpc, "listeners": [{"name": "quic", "port": 443}]}}),
            (_, "connectors") => connector,
            (_, "connectorattachments") => json!({"metadata": {"name": "mine"},
                "spec": {"connectorRef": {"name": "laptop"}, "vpcRef": vpc}}),
            _ => {
                let body = json!({"kind": "Status", "status": "Failure", "code": 403,
                    "message": "the end of this test", "reason": "Forbidden"});
                return ("403 Forbidden", body.to_string());
            }
        };
        let list = json!({"metadata": {}, "items": [item]});
        ("200 OK", list.to_string())
    })
}

#[test]
fn controllers_that_write_meanwhile_do_not_stop_a_key() {
    let token = json!({"token": "t"});
    let (exit, line) = attach_as(&busy(4), &token, &["--attachment", "mine"]);
    assert_eq!(exit, 77, "{line}");
    assert!(line.contains("the end of this test"), "published: {line}");
    let (exit, line) = attach_as(&busy(5), &token, &["--attachment", "mine"]);
    assert_eq!(exit, 75, "{line}");
    assert!(line.contains("somebody else was faster"), "bounded: {line}");
}
