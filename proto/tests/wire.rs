//! Wire compatibility: the compiled `.proto` files say exactly what the checked-in table of facts says.

use std::collections::BTreeSet;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
};

const PACKAGE: &str = "apache.rocketmq.v2";
const FACTS: &str = include_str!("rocketmq-v2-facts.txt");

#[test]
fn the_proto_files_agree_with_the_facts() {
    let expected: BTreeSet<&str> = FACTS.lines().filter(|line| !line.starts_with('#')).collect();
    let compiled = compiled_facts();
    let found: BTreeSet<&str> = compiled.iter().map(String::as_str).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "the wire protocol changed.\nno longer there: {missing:#?}\nnew: {surplus:#?}"
    );
    assert!(expected.len() > 500, "the table of facts is incomplete: {} lines", expected.len());
}

/// The facts of the `.proto` files, in the words of the table.
fn compiled_facts() -> BTreeSet<String> {
    let files = ["definition", "service", "admin"].map(|name| format!("apache/rocketmq/v2/{name}.proto"));
    // Tests run in the folder of their crate.
    let set = protox::compile(files, ["."]).expect("the .proto files compile");
    set.file.iter().filter(|file| file.package() == PACKAGE).flat_map(file_facts).collect()
}

fn file_facts(file: &FileDescriptorProto) -> Vec<String> {
    let mut facts = Vec::new();
    file.enum_type.iter().for_each(|described| enum_facts("", described, &mut facts));
    file.message_type.iter().for_each(|described| message_facts("", described, &mut facts));
    file.service.iter().for_each(|described| service_facts(described, &mut facts));
    let name =
        file.name().rsplit('/').next().expect("split yields at least one part").trim_end_matches(".proto");
    facts.into_iter().map(|fact| format!("{name}: {fact}")).collect()
}

fn enum_facts(scope: &str, described: &EnumDescriptorProto, facts: &mut Vec<String>) {
    let name = format!("{scope}{}", described.name());
    facts.push(format!("enum {name}"));
    for value in &described.value {
        facts.push(format!("enum {name} {} {}", value.number(), value.name()));
    }
}

fn message_facts(scope: &str, described: &DescriptorProto, facts: &mut Vec<String>) {
    let name = format!("{scope}{}", described.name());
    facts.push(format!("message {name}"));
    for field in &described.field {
        facts.push(format!(
            "message {name} {} {} {}",
            field.number(),
            field.name(),
            field_kind(described, field)
        ));
    }
    let inner = format!("{name}.");
    described.enum_type.iter().for_each(|nested| enum_facts(&inner, nested, facts));
    described
        .nested_type
        .iter()
        .filter(|nested| !is_map_entry(nested))
        .for_each(|nested| message_facts(&inner, nested, facts));
}

fn service_facts(described: &ServiceDescriptorProto, facts: &mut Vec<String>) {
    let stream = |streaming| if streaming { "stream " } else { "" };
    for method in &described.method {
        facts.push(format!(
            "rpc {} {} {}{} -> {}{}",
            described.name(),
            method.name(),
            stream(method.client_streaming()),
            short(method.input_type()),
            stream(method.server_streaming()),
            short(method.output_type()),
        ));
    }
}

/// Type of a field with its label and `oneof`: `optional string`, `map<string, Resource>`, `int64 in offset_type`.
fn field_kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = type_name(field);
    if let Some(entry) = map_entry(message, field) {
        return format!("map<{}, {}>", type_name(&entry.field[0]), type_name(&entry.field[1]));
    }
    if field.label() == Label::Repeated {
        return format!("repeated {kind}");
    }
    if field.proto3_optional() {
        return format!("optional {kind}");
    }
    match field.oneof_index {
        Some(index) => format!("{kind} in {}", message.oneof_decl[index as usize].name()),
        None => kind,
    }
}

fn map_entry<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a DescriptorProto> {
    let name = field.type_name().rsplit('.').next()?;
    message.nested_type.iter().find(|nested| nested.name() == name && is_map_entry(nested))
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

fn type_name(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => return short(field.type_name()).to_owned(),
        Type::Double => "double",
        Type::Float => "float",
        Type::Int64 => "int64",
        Type::Int32 => "int32",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Bytes => "bytes",
        other => panic!("{} has type {other:?}, which this protocol does not use", field.name()),
    };
    name.to_owned()
}

/// A type's name as seen from within the package.
fn short(full: &str) -> &str {
    let full = full.trim_start_matches('.');
    full.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('.')).unwrap_or(full)
}
