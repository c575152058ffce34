//! Serves a simulated vCenter over HTTPS, to play with by govc:
//! `cargo run -p vmgroup-sim --example vcenter [PORT]`, then paste what it
//! prints. It runs until it is killed.

use std::io::Write as _;

use vmgroup_sim::clock::Clock;
use vmgroup_sim::serve::{TlsIdentity, serve_on};
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = match std::env::args().nth(1) {
        Some(port) => port.parse()?,
        None => 0,
    };
    let config = VcenterConfig::default();
    let (user, password) = (config.user.clone(), config.password.clone());
    let sim = VcenterSim::new(config, Clock::system());
    let (identity, ca) = TlsIdentity::self_signed(&[])?;
    let server = serve_on(sim.service(), port, Some(&identity)).await?;
    let ca_file = std::env::temp_dir().join(format!("vmgroup-sim-vcenter-{}.pem", server.addr.port()));
    std::fs::write(&ca_file, ca)?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "export GOVC_URL=https://{}/sdk", server.addr)?;
    writeln!(out, "export GOVC_USERNAME={user} GOVC_PASSWORD={password}")?;
    writeln!(out, "export GOVC_TLS_CA_CERTS={}", ca_file.display())?;
    out.flush()?;
    drop(out);
    std::future::pending::<()>().await;
    Ok(())
}
