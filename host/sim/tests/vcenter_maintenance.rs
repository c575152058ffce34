//! A host goes into maintenance as the vendor documents it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, outside of #[test]")]

mod vcenter_client;

use std::time::Duration;

use vcenter_client::{Client, Failure, Ref, Reply, fault_of, sim};
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};

const FOLDER: &str = "/DC0/vm/vm-operator";
const HOST: &str = "DC0_C0_H1";

async fn with(config: VcenterConfig) -> (VcenterSim, Client, Ref) {
    let sim = sim(config);
    let mut client = Client::logged_in(&sim).await;
    let host = client.must_find("/DC0/host/DC0_C0/DC0_C0_H1").await;
    (sim, client, host)
}

fn no_drs() -> VcenterConfig {
    VcenterConfig { drs: false, ..VcenterConfig::default() }
}

fn somebody(sim: &VcenterSim, name: &str) -> String {
    sim.add_vm(FOLDER, name, &[]).unwrap();
    let path = format!("{FOLDER}/{name}");
    sim.migrate(&path, HOST).unwrap();
    path
}

async fn enter(client: &mut Client, host: &Ref, timeout: i32, off: bool) -> Result<Ref, Failure> {
    let body = format!("<timeout>{timeout}</timeout><evacuatePoweredOffVms>{off}</evacuatePoweredOffVms>");
    client.start("EnterMaintenanceMode_Task", host, &body).await
}

fn kind(reply: Reply) -> String {
    reply.expect_err("a failure").kind().to_owned()
}

#[tokio::test(start_paused = true)]
async fn without_drs_the_task_runs_until_the_host_is_empty() {
    let (sim, mut client, host) = with(no_drs()).await;
    let (one, off) = (somebody(&sim, "one"), somebody(&sim, "off"));
    sim.power_off(&off).unwrap();
    let task = enter(&mut client, &host, 0, false).await.unwrap();
    tokio::time::sleep(Duration::from_mins(20)).await;
    let info = client.info(&task).await;
    assert_eq!((info.text("state"), info.text("cancelable")), ("running", "true"));
    assert_eq!(info.text("descriptionId"), "HostSystem.enterMaintenanceMode");
    assert_eq!(client.property(&host, "runtime.inMaintenanceMode").await, "false");
    // "While this task is running … no virtual machines can be powered on."
    assert!(sim.power_on(&off).is_err());
    sim.power_off(&one).unwrap();
    assert_eq!(client.ended(&task).await.text("state"), "success");
    assert_eq!(client.property(&host, "runtime.inMaintenanceMode").await, "true");
    let again = enter(&mut client, &host, 0, false).await.unwrap();
    assert_eq!(fault_of(&client.ended(&again).await), "InvalidState");

    assert_eq!(client.run("ExitMaintenanceMode_Task", &host, "<timeout>0</timeout>").await.text("state"), "success");
    sim.power_on(&off).unwrap();
    let again = client.run("ExitMaintenanceMode_Task", &host, "<timeout>0</timeout>").await;
    assert_eq!(fault_of(&again), "InvalidState");
}

#[tokio::test(start_paused = true)]
async fn it_can_be_cancelled_and_timed() {
    let (sim, mut client, host) = with(no_drs()).await;
    let one = somebody(&sim, "one");
    let task = enter(&mut client, &host, 0, false).await.unwrap();
    client.call("CancelTask", &task, "").await.unwrap();
    assert_eq!(fault_of(&client.info(&task).await), "RequestCanceled");
    sim.power_off(&one).unwrap();
    sim.power_on(&one).unwrap();
    assert!(!sim.in_maintenance(HOST).unwrap());
    let task = enter(&mut client, &host, 60, false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(client.info(&task).await.text("state"), "running");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fault_of(&client.info(&task).await), "Timedout");
    sim.power_off(&one).unwrap();
    assert!(!sim.in_maintenance(HOST).unwrap());
    // It leaves the host as it was, and so does a restart of vCenter.
    let task = enter(&mut client, &host, 0, true).await.unwrap();
    assert_eq!(client.info(&task).await.text("state"), "running", "the powered-off one has to go, too");
    sim.restart(true);
    sim.power_on(&one).unwrap();
}

#[tokio::test(start_paused = true)]
async fn drs_moves_them_where_it_is_fully_automated() {
    let (sim, mut client, host) = with(VcenterConfig::default()).await;
    let (one, off) = (somebody(&sim, "one"), somebody(&sim, "off"));
    sim.power_off(&off).unwrap();
    sim.set_drs(true, false);
    let task = enter(&mut client, &host, 0, false).await.unwrap();
    tokio::time::sleep(Duration::from_mins(20)).await;
    assert_eq!(sim.vm(&one).unwrap().host, HOST);
    client.call("CancelTask", &task, "").await.unwrap();
    sim.set_drs(true, true);
    let task = enter(&mut client, &host, 0, false).await.unwrap();
    assert_eq!(client.ended(&task).await.text("state"), "success");
    assert!(sim.vm(&one).unwrap().power_on && sim.vm(&one).unwrap().host != HOST);
    assert_eq!(sim.vm(&off).unwrap().host, HOST);
}

#[tokio::test(start_paused = true)]
async fn it_takes_a_privilege() {
    let (sim, mut client, host) = with(no_drs()).await;
    sim.withhold("Host.Config.Maintenance");
    let body = "<timeout>0</timeout>";
    assert_eq!(kind(client.call("EnterMaintenanceMode_Task", &host, body).await), "NoPermission");
    assert_eq!(kind(client.call("ExitMaintenanceMode_Task", &host, body).await), "NoPermission");
}
