//! Builds the shipped policies, which the crate embeds.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    shipped(&root, &out)
}

/// Builds the shipped policies with the script that anybody would use, and
/// lists what it has built.
fn shipped(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let script = root.join("scripts/build-plugins");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rerun-if-changed={}", root.join("plugins").display());
    println!("cargo::rerun-if-changed={}", root.join("wit").display());
    let mut files = Vec::new();
    if script.exists() {
        let done = Command::new(&script).arg("--no-install").current_dir(root).output();
        match done {
            Ok(done) if done.status.success() => {}
            Ok(done) => {
                return Err(format!(
                    "the shipped policies do not build; `make plugins` installs what is missing, or shows what is wrong:\n{}{}",
                    String::from_utf8_lossy(&done.stdout),
                    String::from_utf8_lossy(&done.stderr)
                )
                .into());
            }
            Err(error) => {
                return Err(format!("{} cannot be run: {error}", script.display()).into());
            }
        }
        let folder = root.join("target/plugins");
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let bare = name.strip_suffix(".gz").unwrap_or(name);
            if path.is_file() && !name.starts_with('.') && bare.strip_suffix(".wasm").is_some() {
                files.push(path);
            }
        }
    }
    files.sort();
    // Compressed beats raw where both are there: the binary carries them.
    let mut list = String::from("&[\n");
    for path in &files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let compressed = path.with_file_name(format!("{name}.gz"));
        if files.contains(&compressed) {
            continue;
        }
        let bare = name.trim_end_matches(".gz").trim_end_matches(".wasm").replace('_', "-");
        println!("cargo::rerun-if-changed={}", path.display());
        writeln!(list, "    ({bare:?}, include_bytes!({:?})),", path.display().to_string())?;
    }
    list.push(']');
    fs::write(out.join("shipped.rs"), list)?;
    Ok(())
}
