//! Serves a simulated Kubernetes API on a loopback port and writes a
//! kubeconfig for it:
//!
//! ```text
//! cargo run -p vmgroup-sim --example kube -- /tmp/sim.kubeconfig
//! KUBECONFIG=/tmp/sim.kubeconfig kubectl get namespaces
//! ```

use vmgroup_sim::clock::Clock;
use vmgroup_sim::kube::KubeSim;
use vmgroup_sim::serve::{TlsIdentity, kubeconfig_with, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let sim = KubeSim::new(Clock::system(), 1);
    let (identity, ca) = TlsIdentity::self_signed(&[])?;
    let server = serve(sim.service(), Some(&identity)).await?;
    let config = kubeconfig_with(server.addr, Some(&ca), None);
    match std::env::args().nth(1) {
        Some(path) => std::fs::write(path, config)?,
        None => println!("{config}"),
    }
    eprintln!("serving on https://{}, until Ctrl-C", server.addr);
    tokio::signal::ctrl_c().await
}
