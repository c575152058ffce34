//! The client against govmomi's own simulator, over HTTP. Needs
//! `target/e2e-tools/bin/vcsim`, which needs Go: run with `--ignored`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod stories;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use common::{KEY, PREFIX, Seen, until};
use vmgroup_vsphere::{
    Category, Credentials, Error, HttpTransport, Options, Outcome, SiteSelection, Tls, TransportKind, Vcenter, endpoint,
};

const VCSIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/e2e-tools/bin/vcsim");

/// A vcsim of its own, gone with the test.
struct Vcsim {
    child: Child,
    url: String,
}

impl Vcsim {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(VCSIM)
            .args(["-die-with-stdin", "-folder", "vm-operator", "-template", "golden"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self { child, url: ready["url"].as_str().unwrap().to_owned() }
    }

    fn options(&self, password: &str) -> Options {
        let credentials = Credentials { user: "user".to_owned(), password: password.into() };
        let mut options = Options::new(endpoint(&self.url).unwrap(), credentials);
        PREFIX.clone_into(&mut options.extra_prefix);
        KEY.clone_into(&mut options.index_key);
        options
    }

    fn client(&self) -> Vcenter {
        let transport = HttpTransport::new(&Tls::Insecure).unwrap();
        Vcenter::new(self.options("pass"), Arc::new(transport))
    }
}

impl Drop for Vcsim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "needs vcsim"]
async fn a_machine_lives_on_vcsim() {
    let vcsim = Vcsim::start(&["-task-delay", "CloneVM:200"]);
    let vcenter = vcsim.client();
    // Plain names: vcsim escapes the `%` of an escape once more, against the
    // documentation of `Folder.CreateFolder`.
    stories::life_of_a_machine(&vcenter, "golden", "ns-web", "web-0").await;
    vcenter.logout().await;
}

#[tokio::test]
#[ignore = "needs vcsim"]
async fn a_site_that_is_none_is_told_on_vcsim() {
    let vcsim = Vcsim::start(&["-standalone-host", "1"]);
    let vcenter = vcsim.client();
    stories::sites_that_are_not(&vcenter, "golden").await;
    let error = vcenter.resolve_site(&SiteSelection::default()).await.unwrap_err();
    let Error::Ambiguous { candidates, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(candidates, &["/DC0/host/DC0_C0/Resources", "/DC0/host/DC0_H0/Resources"]);
}

#[tokio::test]
#[ignore = "needs vcsim"]
async fn pages_are_followed_and_credentials_rotate_on_vcsim() {
    let vcsim = Vcsim::start(&["-tls=false", "-vm", "7"]);
    let mut options = vcsim.options("pass");
    options.page_size = 2;
    let transport = Arc::new(HttpTransport::new(&Tls::System).unwrap());
    let vcenter = Vcenter::new(options, transport.clone());
    let mut site = vcenter.resolve_site(&common::selection()).await.unwrap();
    site.root_folder = site.vm_folder.clone();
    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    assert_eq!(watch.inventory().len(), 8);
    assert_eq!(vcenter.list_folder(&site.vm_folder).await.unwrap().unwrap().len(), 9);

    let logins = |vcenter: &Vcenter| -> u64 {
        vcenter.call_counts().iter().filter(|((method, _), _)| method == "Login").map(|(_, count)| count).sum()
    };
    let refused = |vcenter: &Vcenter| vcenter.call_counts().contains_key(&("Login".to_owned(), Outcome::Fault));
    vcenter.set_credentials(Credentials { user: "user".to_owned(), password: "wrong".into() });
    until("the wrong password is tried", || refused(&vcenter)).await;
    let tried = logins(&vcenter);
    vcenter.list_folder(&site.vm_folder).await.expect("the old session serves on");
    assert_eq!(logins(&vcenter), tried, "a refused password is not tried again at once");
    vcenter.set_credentials(Credentials { user: "user".to_owned(), password: "pass".into() });
    let folder = vcenter.create_folder(&site.vm_folder, "after").await.unwrap();
    seen.find("the folder made after the rotation", |event| match event {
        vmgroup_vsphere::Event::FolderChanged(changed) if changed.id == folder => Some(()),
        _ => None,
    })
    .await;
    until("the new session alone", || vcenter.sessions().most() == 1 && logins(&vcenter) == tried + 1).await;
    vcenter.logout().await;
}

#[tokio::test]
#[ignore = "needs vcsim"]
async fn an_untrusted_certificate_is_told_and_nothing_is_sent() {
    let vcsim = Vcsim::start(&[]);
    let transport = HttpTransport::new(&Tls::System).unwrap();
    let vcenter = Vcenter::new(vcsim.options("pass"), Arc::new(transport));
    let error = vcenter.connect().await.unwrap_err();
    assert!(matches!(&error, Error::Transport { source, .. } if source.kind == TransportKind::Tls), "{error:?}");
    assert_eq!(error.category(), Category::Configuration);
    assert!(!error.outcome_unknown());
    assert!(error.to_string().contains("CA"), "{error}");
}

#[tokio::test]
#[ignore = "needs vcsim"]
async fn a_ca_file_makes_a_certificate_trusted() {
    let ca = std::env::temp_dir().join(format!("vmgroup-vsphere-ca-{}.pem", std::process::id()));
    let vcsim = Vcsim::start(&["-ca-out", ca.to_str().unwrap()]);
    let transport = HttpTransport::new(&Tls::CaFile(ca.clone())).unwrap();
    let vcenter = Vcenter::new(vcsim.options("pass"), Arc::new(transport));
    vcenter.connect().await.unwrap();
    vcenter.logout().await;
    std::fs::remove_file(ca).unwrap();
}
