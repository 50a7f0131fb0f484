//! The example config in `deploy/` is one that a node would take.

use std::path::Path;

use ticketrail_server::WrittenConfig;

#[test]
fn the_example_config_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ticketrail.example.toml");
    let written = WrittenConfig::read(&path).expect("it parses, and every key is known");
    let config = written.validate().expect("its values are in bounds");
    assert_eq!(config.node.0, 1);
}
