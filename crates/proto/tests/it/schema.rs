//! The schema as a list: every field with its number and type, every enum value, every call. A line of
//! `fixtures/schema.txt` that is gone or different breaks clients, peers or disks that exist.
//!
//! A new line is added by `TICKETRAIL_WRITE_FIXTURES=1 cargo test -p ticketrail-proto schema`; an old one is
//! never changed after a release.

use std::fmt::Write as _;
use std::{env, fs};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/schema.txt");

#[test]
fn the_schema_is_the_one_that_was_released() {
    let now = schema();
    if env::var_os("TICKETRAIL_WRITE_FIXTURES").is_some() {
        fs::write(PATH, &now).unwrap();
    }
    let released = fs::read_to_string(PATH).unwrap();
    let gone: Vec<_> = released
        .lines()
        .filter(|line| !now.lines().any(|l| l == *line))
        .collect();
    assert!(gone.is_empty(), "changed or removed: {gone:#?}");
    let new: Vec<_> = now
        .lines()
        .filter(|line| !released.lines().any(|l| l == *line))
        .collect();
    assert!(
        new.is_empty(),
        "new, add them to fixtures/schema.txt: {new:#?}"
    );
}

#[test]
fn only_the_public_package_is_reflected() {
    let public = FileDescriptorSet::decode(ticketrail_proto::PUBLIC_DESCRIPTORS).unwrap();
    let packages: Vec<_> = public.file.iter().map(|file| file.package()).collect();
    assert!(packages.contains(&"ticketrail.v1"));
    assert!(
        packages
            .iter()
            .all(|name| ["ticketrail.v1", "google.protobuf"].contains(name))
    );
}

fn schema() -> String {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ticketrail_all.fds"));
    let mut lines = Vec::new();
    for file in FileDescriptorSet::decode(bytes).unwrap().file {
        if !file.package().starts_with("ticketrail.") {
            continue;
        }
        file.message_type
            .iter()
            .for_each(|m| message(file.package(), m, &mut lines));
        file.enum_type
            .iter()
            .for_each(|e| values(file.package(), e, &mut lines));
        file.service
            .iter()
            .for_each(|s| calls(file.package(), s, &mut lines));
    }
    lines.sort();
    lines.iter().fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").unwrap();
        text
    })
}

fn message(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let scope = format!("{scope}.{}", message.name());
    lines.push(format!("message {scope}"));
    message
        .field
        .iter()
        .for_each(|f| lines.push(field(&scope, message, f)));
    message
        .nested_type
        .iter()
        .for_each(|nested| self::message(&scope, nested, lines));
}

fn field(scope: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    };
    let how = match (field.label(), field.proto3_optional(), field.oneof_index) {
        (Label::Repeated, ..) => "repeated ".to_owned(),
        (_, true, _) => "optional ".to_owned(),
        (.., Some(oneof)) => {
            let oneof = usize::try_from(oneof).unwrap();
            format!("oneof {} ", message.oneof_decl[oneof].name())
        }
        _ => String::new(),
    };
    format!(
        "field {scope} {}: {how}{kind} {}",
        field.number(),
        field.name()
    )
}

fn values(scope: &str, list: &EnumDescriptorProto, lines: &mut Vec<String>) {
    for value in &list.value {
        lines.push(format!(
            "enum {scope}.{} {}: {}",
            list.name(),
            value.number(),
            value.name()
        ));
    }
}

fn calls(scope: &str, service: &ServiceDescriptorProto, lines: &mut Vec<String>) {
    let stream = |yes: bool| if yes { "stream " } else { "" };
    for call in &service.method {
        lines.push(format!(
            "rpc {scope}.{}.{}: {}{} -> {}{}",
            service.name(),
            call.name(),
            stream(call.client_streaming()),
            call.input_type().trim_start_matches('.'),
            stream(call.server_streaming()),
            call.output_type().trim_start_matches('.'),
        ));
    }
}
