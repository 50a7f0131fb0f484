//! The shipped Kubernetes resources: good by Kubernetes' own schemas, and of one mind with the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use ticketrail_tests::cluster::Program;

use crate::examples::run;
use crate::python::environment;
use crate::skipped;

/// The first version in which all that is used is stable, and the newest whose schemas are there.
const VERSIONS: [&str; 2] = ["1.31", "1.35"];
const LOAD: &str =
    "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";

#[test]
fn the_kubernetes_resources_fit_the_schemas_and_the_program() {
    let python = match environment("kubernetes", "tests/python/kubernetes.txt") {
        Ok(python) => python,
        Err(why) => return skipped("Kubernetes resources", &why),
    };
    let file = shipped();
    for version in VERSIONS {
        fits(&python, version, &file).unwrap();
    }
    a_mistake_is_found(&python, &file);
    let mut load = Command::new(&python);
    let loaded = run(load.args(["-c", LOAD]).arg(&file)).unwrap();
    let resources: Vec<Value> = serde_json::from_slice(&loaded.stdout).unwrap();
    names_and_ports_agree(&resources);
    the_program_takes_the_environment(&resources);
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/ticketrail.yaml")
}

/// Nothing unknown, nothing of a wrong kind.
fn fits(python: &Path, version: &str, file: &Path) -> Result<(), String> {
    let mut validate = Command::new(python.with_file_name("kubernetes-validate"));
    validate.args(["--strict", "-k", version]).arg(file);
    run(&mut validate).map(drop)
}

fn a_mistake_is_found(python: &Path, file: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    let text = fs::read_to_string(file).unwrap();
    for (right, mistake) in [
        ("  replicas: 3\n", "  replicas: three\n"),
        ("readinessProbe:", "readynessProbe:"),
    ] {
        assert!(text.contains(right));
        fs::write(&wrong, text.replace(right, mistake)).unwrap();
        fits(python, VERSIONS[0], &wrong).unwrap_err();
    }
}

fn the<'a>(resources: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = resources
        .iter()
        .find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} `{name}`"))
}

/// What one resource says of another, which no schema knows.
fn names_and_ports_agree(resources: &[Value]) {
    let set = &the(resources, "StatefulSet", "ticketrail")["spec"];
    let labels = &set["template"]["metadata"]["labels"];
    assert_eq!(&set["selector"]["matchLabels"], labels);
    let nodes = the(resources, "Service", set["serviceName"].as_str().unwrap());
    assert_eq!(nodes["spec"]["clusterIP"], "None");
    assert_eq!(nodes["spec"]["publishNotReadyAddresses"], true);
    let budget = the(resources, "PodDisruptionBudget", "ticketrail");
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    let container = container(resources);
    let ports = container["ports"].as_array().unwrap();
    let has = |name: &Value| ports.iter().any(|port| &port["name"] == name);
    for service in [nodes, the(resources, "Service", "ticketrail")] {
        assert_eq!(&service["spec"]["selector"], labels);
        for port in service["spec"]["ports"].as_array().unwrap() {
            assert!(has(&port["targetPort"]), "{port}");
        }
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(has(&container[probe]["httpGet"]["port"]), "{probe}");
    }
    let claim = &set["volumeClaimTemplates"][0]["metadata"]["name"];
    assert_eq!(&container["volumeMounts"][0]["name"], claim);
}

fn container(resources: &[Value]) -> &Value {
    let set = the(resources, "StatefulSet", "ticketrail");
    &set["spec"]["template"]["spec"]["containers"][0]
}

/// Each pod's number is one of the first members, which are the pods by their names; another number is refused.
fn the_program_takes_the_environment(resources: &[Value]) {
    let set = &the(resources, "StatefulSet", "ticketrail")["spec"];
    let variables = container(resources)["env"].as_array().unwrap();
    let variable = |name: &str| variables.iter().find(|one| one["name"] == name).unwrap();
    let id = &variable("TICKETRAIL_NODE_ID")["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(id, "metadata.labels['apps.kubernetes.io/pod-index']");
    let bootstrap = variable("TICKETRAIL_BOOTSTRAP")["value"].as_str().unwrap();
    let bootstrap = bootstrap.replace("$(POD_NAMESPACE)", "shop");
    let first = set["ordinals"]["start"].as_u64().unwrap();
    let after = first + set["replicas"].as_u64().unwrap();
    let member = |id| {
        let host = format!(
            "ticketrail-{id}.{}.shop.svc",
            set["serviceName"].as_str().unwrap()
        );
        format!("{id}={host}:7500@{host}:7400")
    };
    let members: Vec<_> = (first..after).map(member).collect();
    assert_eq!(bootstrap, members.join(","));
    // Had it not understood the list, it would say so instead.
    let refused = Command::new(Program::Product.path())
        .arg("serve")
        .env("TICKETRAIL_NODE_ID", after.to_string())
        .env("TICKETRAIL_BOOTSTRAP", &bootstrap)
        .env("TICKETRAIL_LISTEN", "0.0.0.0:7400")
        .env("TICKETRAIL_PEER_LISTEN", "0.0.0.0:7500")
        .env("TICKETRAIL_DATA_DIR", "nowhere")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    let expected = format!("`bootstrap` must be a list with this node, {after}");
    assert!(said.contains(&expected), "{said}");
}
