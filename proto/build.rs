//! Compiles the `.proto` files with protox, a compiler written in Rust, so that no `protoc` has to be installed.

use std::path::PathBuf;

use protox::prost_reflect::prost_types::field_descriptor_proto::Type;
use tonic_prost_build::FileDescriptorSet;

/// What the SDK protocol's files call their package.
const V2: &str = "apache.rocketmq.v2";
/// The parts of the SDK protocol in which `Message`s cross a broker.
const MESSAGE_CARRIERS: [&str; 3] = ["SendMessageRequest", "ReceiveMessageResponse", "PullMessageResponse"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "apache/rocketmq/v2/definition.proto",
        "apache/rocketmq/v2/service.proto",
        "apache/rocketmq/v2/admin.proto",
        "kerolox/v1/registry.proto",
        "kerolox/v1/broker_admin.proto",
        "kerolox/v1/controller.proto",
        "kerolox/v1/errors.proto",
        "kerolox/v1/producers.proto",
        "kerolox/v1/replication.proto",
        "kerolox/v1/server.proto",
        "kerolox/v1/transactions.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    compile_raw(descriptors.clone())?;
    tonic_prost_build::configure()
        // Bodies are shared, not copied, between the decoder and their later owners.
        .bytes(".apache.rocketmq.v2.Message.body")
        .bytes(".kerolox.v1.Records.bytes")
        .bytes(".kerolox.v1.ReadRecordsResponse.records")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The SDK protocol's service once more, with `bytes` in place of `Message`: the two have the same form on the wire.
/// Whatever holds no message is the type of the first generation.
fn compile_raw(mut descriptors: FileDescriptorSet) -> Result<(), Box<dyn std::error::Error>> {
    descriptors
        .file
        .retain(|file| !file.name().ends_with("admin.proto") && !file.name().starts_with("kerolox/"));
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("raw");
    std::fs::create_dir_all(&out)?;
    let mut builder = tonic_prost_build::configure().build_client(false).bytes(".").out_dir(out);
    let message = format!(".{V2}.Message");
    for file in descriptors.file.iter_mut().filter(|file| file.package() == V2) {
        let (enums, messages) = (&file.enum_type, &mut file.message_type);
        for name in enums.iter().map(|each| each.name()) {
            builder = builder.extern_path(format!(".{V2}.{name}"), format!("crate::v2::{name}"));
        }
        for declared in messages {
            let name = declared.name().to_owned();
            if MESSAGE_CARRIERS.contains(&name.as_str()) {
                for field in declared.field.iter_mut().filter(|field| field.type_name() == message) {
                    field.type_name = None;
                    field.set_type(Type::Bytes);
                }
            } else {
                builder = builder.extern_path(format!(".{V2}.{name}"), format!("crate::v2::{name}"));
            }
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
