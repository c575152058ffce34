//! The vCenters of a run as one: all their machines and tasks, each under a reference
//! that says which of them it is in.
//!
//! Must not know what they are good for.

use std::collections::BTreeMap;

use vmgroup_sim::vcenter::{TaskView, VcenterSim, VmView};

/// All of them. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Vcenters(Vec<VcenterSim>);

/// The reference of something in the vCenter of this number. In the first, which is the
/// only one as a rule, it is vCenter's own.
pub fn reference(vcenter: usize, moref: &str) -> String {
    if vcenter == 0 { moref.to_owned() } else { format!("{moref}@{vcenter}") }
}

/// The vCenter that a reference says.
pub fn vcenter_of(reference: &str) -> usize {
    reference.split_once('@').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

impl Vcenters {
    /// These, by their numbers.
    pub fn new(all: Vec<VcenterSim>) -> Self {
        Self(all)
    }

    /// The one of this number.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, vcenter: usize) -> &VcenterSim {
        &self.0[vcenter]
    }

    /// The one that has this machine.
    pub fn of(&self, vm: &VmView) -> &VcenterSim {
        self.at(vcenter_of(&vm.moref))
    }

    /// Each with its number.
    pub fn each(&self) -> impl Iterator<Item = (usize, &VcenterSim)> {
        self.0.iter().enumerate()
    }

    /// The machines and templates of one of them.
    pub fn vms_of(&self, vcenter: usize) -> Vec<VmView> {
        let mut vms = self.at(vcenter).vms();
        for vm in &mut vms {
            vm.moref = reference(vcenter, &vm.moref);
        }
        vms
    }

    /// All machines and templates.
    pub fn vms(&self) -> Vec<VmView> {
        (0..self.0.len()).flat_map(|vcenter| self.vms_of(vcenter)).collect()
    }

    /// All tasks that are still remembered.
    pub fn tasks(&self) -> Vec<TaskView> {
        let of = |(number, vcenter): (usize, &VcenterSim)| {
            let tasks = vcenter.tasks().into_iter();
            tasks.map(move |task| TaskView { moref: reference(number, &task.moref), ..task })
        };
        self.each().flat_map(of).collect()
    }

    /// The inventory paths of all folders of machines, each with its vCenter.
    pub fn folders(&self) -> Vec<(usize, String)> {
        let of =
            |(number, vcenter): (usize, &VcenterSim)| vcenter.folders().into_iter().map(move |path| (number, path));
        self.each().flat_map(of).collect()
    }

    /// Rises whenever one of the inventories changes.
    pub fn changes(&self) -> u64 {
        self.0.iter().map(VcenterSim::changes).sum()
    }

    /// The calls that each has got, by method.
    pub fn calls(&self) -> BTreeMap<(usize, String), u64> {
        let of = |(number, vcenter): (usize, &VcenterSim)| {
            vcenter.faults().calls().into_iter().map(move |(method, count)| ((number, method), count))
        };
        self.each().flat_map(of).collect()
    }
}
