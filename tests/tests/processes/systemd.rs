//! The shipped service: good by systemd's own check, closed as far as it says, and of one mind with the program about exit
//! codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ticketrail_tests::cluster::Program;

use crate::examples::run;
use crate::skipped;

/// The most that `systemd-analyze security` may find open, of 100.
const EXPOSURE_MAX: &str = "15";
/// Where the service expects the program.
const INSTALLED: &str = "/usr/local/bin/ticketrail";

#[test]
fn the_service_passes_systemds_own_check() {
    if let Err(why) = run(Command::new("systemd-analyze").arg("--version")) {
        return skipped("the systemd service", &why);
    }
    let folder = tempfile::tempdir().unwrap();
    let shipped = fs::read_to_string(deploy("ticketrail.service")).unwrap();
    assert!(shipped.contains(INSTALLED));
    // With the program where it is here.
    let program = Program::Product.path().canonicalize().unwrap();
    let unit = shipped.replace(INSTALLED, program.to_str().unwrap());
    assert_eq!(verified(folder.path(), &unit), "");
    let mistaken = unit.replace("ProtectHome=yes", "ProtectHomes=yes");
    let found = verified(folder.path(), &mistaken);
    assert!(found.contains("ProtectHomes"), "{found}");

    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold", EXPOSURE_MAX]);
    run(security.arg(deploy("ticketrail.service"))).unwrap();
    fs::create_dir(folder.path().join("etc")).unwrap();
    let mut users = Command::new("systemd-sysusers");
    users.arg("--dry-run").arg("--root").arg(folder.path());
    run(users.arg(deploy("ticketrail.sysusers.conf"))).unwrap();
    wrong_settings_are_not_tried_again(folder.path(), &shipped);
}

fn deploy(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    folder.join(file).canonicalize().unwrap()
}

/// What the check says of a unit of this text; some of it does not change how it ends.
fn verified(folder: &Path, text: &str) -> String {
    let unit = folder.join("ticketrail.service");
    fs::write(&unit, text).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    let output = verify.arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || !said.is_empty());
    said
}

fn wrong_settings_are_not_tried_again(folder: &Path, unit: &str) {
    let settings = folder.join("ticketrail.toml");
    fs::write(&settings, "nodeid = 1\n").unwrap();
    let mut serve = Command::new(Program::Product.path());
    let ended = serve.args(["serve", "--config"]).arg(&settings).output();
    let code = ended.unwrap().status.code().unwrap();
    assert!(unit.contains("\nRestart=on-failure\n"));
    let prevented = format!("\nRestartPreventExitStatus={code}\n");
    assert!(unit.contains(&prevented), "{prevented}");
}
