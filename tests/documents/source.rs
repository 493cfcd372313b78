//! Sources, read as syntax: what documents are made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A field with its type and what the source says about it.
pub(crate) struct SourceField {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) about: String,
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The sources in a folder.
pub(crate) fn sources_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".rs")).map(|name| format!("{folder}/{name}")).collect()
}

/// The sources in a folder and all folders in it.
pub(crate) fn sources_below(folder: &str) -> Vec<String> {
    let mut found = sources_in(folder);
    for entry in std::fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(sources_below(&format!("{folder}/{}", entry.file_name().to_str().unwrap())));
        }
    }
    found
}

pub(crate) fn parsed(path: &str) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The doc comment of an item, in one line.
pub(crate) fn about(attributes: &[syn::Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let syn::Meta::NameValue(syn::MetaNameValue { value: syn::Expr::Lit(value), .. }) = &attribute.meta
            && let syn::Lit::Str(text) = &value.lit
        {
            lines.push(text.value().trim().to_owned());
        }
    }
    lines.join(" ")
}

/// The fields of all structures in a source, by the structure's name.
pub(crate) fn structures(source: &syn::File) -> BTreeMap<String, Vec<SourceField>> {
    let mut found = BTreeMap::new();
    for item in &source.items {
        let syn::Item::Struct(item) = item else { continue };
        let fields = item.fields.iter().filter_map(|field| {
            let kind = match &field.ty {
                syn::Type::Path(path) => path.path.segments.last()?.ident.to_string(),
                _ => String::new(),
            };
            let name = field.ident.as_ref()?.to_string();
            Some(SourceField { name: name.replace('_', "-"), kind, about: about(&field.attrs) })
        });
        found.insert(item.ident.to_string(), fields.collect());
    }
    found
}
