//! The mutants do not rot: each still has its place in the code. Whether each is
//! still Rust, and is caught, is found out by `make mutants`.

use std::collections::BTreeSet;
use std::path::Path;

use vmgroup_e2e::mutants::{self, SCENARIOS, Tried};

#[test]
fn every_mutant_can_still_be_planted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let list = mutants::list(&root).unwrap();
    let missing: Vec<String> = list
        .iter()
        .filter_map(|mutant| mutants::planted(&root, std::slice::from_ref(mutant)).err().map(|error| error.to_string()))
        .collect();
    assert!(
        missing.is_empty(),
        "the code has moved on; mend in {} (a `find` is an expression of the code as it is now):\n{}",
        mutants::LIST,
        missing.join("\n")
    );
    let planted = mutants::planted(&root, &list).unwrap();
    let names: BTreeSet<&str> = list.iter().map(|mutant| mutant.name.as_str()).collect();
    assert_eq!(names.len(), list.len(), "names are unique");
    for mutant in &list {
        let switch = format!("crate::planted({:?})", mutant.name);
        assert!(planted.values().any(|text| text.contains(&switch)), "{}", mutant.name);
        assert!(!mutant.property.is_empty(), "{}", mutant.name);
        if let Tried::Scenario(name) = &mutant.tried {
            assert!(SCENARIOS.contains(&name.as_str()), "{}: there is no scenario {name}", mutant.name);
        }
    }
}
