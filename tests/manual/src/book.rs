//! The manual as mdBook reads and renders it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mdbook_driver::MDBook;
use mdbook_driver::builtin_renderers::MarkdownRenderer;

/// A page with its includes in place.
#[derive(Debug, Clone)]
pub(crate) struct ManualPage {
    /// Path below `src`, such as `tutorials/first-message.md`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The folder with `book.toml`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manual")
}

/// Renders the manual into a folder, or into that of `book.toml`, and returns the folder.
///
/// # Errors
/// When a page of `SUMMARY.md` is missing, or the folder cannot be written.
pub(crate) fn build(out: Option<PathBuf>) -> Result<PathBuf> {
    let mut book = load()?;
    if let Some(out) = out {
        book.config.build.build_dir = std::path::absolute(out)?;
    }
    book.build().context("rendering the manual")?;
    Ok(book.build_dir_for("html"))
}

/// All pages, in the order of `SUMMARY.md`.
///
/// # Errors
/// When a page of `SUMMARY.md` is missing.
pub(crate) fn pages() -> Result<Vec<ManualPage>> {
    let (book, _) = load()?.preprocess_book(&MarkdownRenderer::new())?;
    let page = |chapter: &mdbook_driver::book::Chapter| {
        let path = chapter.source_path.as_ref()?;
        Some(ManualPage { path: path.to_string_lossy().into_owned(), text: chapter.content.clone() })
    };
    Ok(book.chapters().filter_map(page).collect())
}

fn load() -> Result<MDBook> {
    let root = root();
    MDBook::load(&root).with_context(|| format!("reading the manual in {}", root.display()))
}
