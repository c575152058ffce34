//! Two things that the crate embeds: the bindings of the contract and the
//! shipped policies.
//!
//! The contract's `types` has a record `host`, and wasmtime's generator puts a
//! trait `Host` of its own into the same module. Records are structural in the
//! component model, so the host may call it otherwise: it is renamed here, on
//! the way to the generator, and back again in `src/wit.rs`. `wit/` stays the
//! only source.

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
    bindings(&root.join("wit/0.1"), &out)?;
    shipped(&root, &out)
}

fn bindings(wit: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", wit.display());
    let copy = out.join("wit");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    fs::create_dir_all(&copy)?;
    for entry in fs::read_dir(wit)? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        let patched = text
            .replace("record host {", "record esxi-host {")
            .replace("hosts: list<host>", "hosts: list<esxi-host>")
            // `place` is a record of the same interface; WIT wants one name for one thing.
            .replace("  place: func(", "  assign: func(");
        fs::write(copy.join(entry.file_name()), patched)?;
    }
    // A world that imports what policies export: it gives the types without
    // the generator's unchecked calls. The calls are made in `src/sandbox.rs`,
    // where wasmtime checks each signature.
    fs::write(
        copy.join("host-side.wit"),
        "package vmgroup:policy@0.1.0;\n\
         world host-side { import log; import lifecycle; import naming; import placement; import scaling; }\n",
    )?;
    fs::write(
        out.join("bindings.rs"),
        format!(
            "wasmtime::component::bindgen!({{
                path: {:?},
                world: \"host-side\",
                additional_derives: [PartialEq, Eq, serde::Serialize, serde::Deserialize],
            }});",
            copy.display().to_string()
        ),
    )?;
    Ok(())
}

/// Builds the shipped policies with the script that anybody would use, and
/// lists what it has built.
fn shipped(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let script = root.join("scripts/build-plugins");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rerun-if-changed={}", root.join("plugins").display());
    let mut files = Vec::new();
    if script.exists() {
        let done = Command::new(&script).arg("--no-install").current_dir(root).output();
        match done {
            Ok(done) if done.status.success() => {}
            Ok(done) => {
                return Err(format!(
                    "the shipped policies do not build; run `make plugins` and see why:\n{}{}",
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
