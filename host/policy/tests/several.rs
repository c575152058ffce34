//! One component for several questions (`plugins/sdk/examples/site.rs`): checked
//! for each, with that one's configuration.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::json;
use vmgroup_policy::wit::types::{Context, Inventory, Member, PowerState, Purpose};
use vmgroup_policy::wit::{naming, scaling};
use vmgroup_policy::{CheckError, Host, Kind, Limits, Policy, Problem, Source, Stage};

static HOST: LazyLock<Host> = LazyLock::new(|| Host::new(Limits::default()).unwrap());

static SITE: LazyLock<Bytes> = LazyLock::new(|| common::built("--example", "site"));

fn check(kind: Kind, config: serde_json::Value) -> Result<std::sync::Arc<Policy>, CheckError> {
    HOST.check(kind, &Source { name: "site.wasm".into(), bytes: SITE.clone(), config }).map(|checked| checked.policy)
}

fn context() -> Context {
    let mut context = common::context(Purpose::ScaleIn, 1, 0);
    context.group.replicas = 1;
    context
}

fn member(name: &str) -> Member {
    Member {
        name: name.into(),
        uuid: format!("uuid of {name}"),
        created_at: None,
        power: PowerState::PoweredOn,
        host: None,
        datastore: None,
        cpu_used_mhz: None,
        memory_used_mib: None,
        ready: true,
        protected: false,
        attributes: Vec::new(),
    }
}

#[test]
fn each_question_is_answered_under_its_own_configuration() {
    let naming = check(Kind::Naming, json!({ "site": "FRA" })).unwrap();
    let scaling = check(Kind::Scaling, json!({ "keepSite": "FRA" })).unwrap();
    assert_eq!(naming.digest(), scaling.digest(), "one component");
    for policy in [&naming, &scaling] {
        let description = policy.description();
        assert_eq!(description.name, "site");
        assert_eq!(description.summary, "Names carry the code of a site. Members of another site leave first.");
        let schema = description.config_schema.as_deref().unwrap();
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        assert_eq!(schema["anyOf"][0]["allOf"][0]["required"], json!(["site"]));
        assert_eq!(schema["anyOf"][1]["allOf"][0]["required"], json!(["keepSite"]));
    }
    let request = naming::Request {
        context: context(),
        count: 2,
        members: Vec::new(),
        taken_in_group: vec!["FRA-web-001".into()],
        taken_elsewhere: Vec::new(),
        max_length: 80,
    };
    let named = naming.name(&request).unwrap().answer.proposals;
    assert_eq!(named.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["FRA-web-002", "FRA-web-003"]);
    let request = scaling::Request {
        context: context(),
        count: 1,
        members: ["FRA-web-001", "MUC-web-001"].map(member).into(),
        inventory: Inventory { clusters: Vec::new(), hosts: Vec::new(), datastores: Vec::new() },
    };
    let victims = scaling.choose(&request).unwrap().answer;
    assert_eq!((victims[0].member, victims[0].reason.as_str()), (1, "not of site FRA"));
}

#[test]
fn the_configuration_of_one_question_is_refused_for_the_other() {
    for (kind, config, mistake) in
        [(Kind::Naming, json!({ "keepSite": "FRA" }), "keepSite"), (Kind::Scaling, json!({ "site": "FRA" }), "site")]
    {
        let error = check(kind, config).unwrap_err();
        assert_eq!(error.stage, Stage::Config, "{error}");
        let Problem::Config(problems) = &*error.problem else { panic!("{error}") };
        assert_eq!(problems[0].path, format!("/{mistake}"));
        assert!(problems[0].message.contains(&format!("unknown field `{mistake}`")), "{error}");
        assert!(error.remedy().contains(&format!("`config` under `{kind}:`")), "{}", error.remedy());
    }
}

#[test]
fn a_question_that_it_does_not_answer_is_refused() {
    let error = check(Kind::Placement, json!({})).unwrap_err();
    assert_eq!(error.stage, Stage::Interface);
    let text = error.to_string();
    assert!(
        text.contains("does not answer placement") && text.contains("/naming@") && text.contains("/scaling@"),
        "{text}"
    );
    assert!(error.remedy().contains("`naming:` or `scaling:`"), "{}", error.remedy());
}
