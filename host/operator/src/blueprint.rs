//! What the members of a group are cloned from: their source, and what else goes
//! into a clone's call, found afresh for each pass that clones.
//!
//! Must not write anything, and must not keep user data beyond the pass.

use kube::Client;
use vmgroup_vsphere::{Category, Customization, Error as VcError, Hardware, Source, Vcenter};

use crate::guest::{self, GuestError, UserData};
use crate::link::Connected;
use crate::validate::Desired;

/// What clones are made from in one pass.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The template, and its snapshot for linked clones.
    pub source: Source,
    /// Networks and disks.
    pub hardware: Hardware,
    /// What vCenter does to the guests.
    pub customization: Option<Customization>,
    /// What cloud-init is told besides who it is.
    pub user_data: Option<UserData>,
}

/// What is not there that clones need.
#[derive(Debug, thiserror::Error)]
pub enum Lacking {
    /// vCenter has not got it, or did not say.
    #[error(transparent)]
    Vcenter(#[from] VcError),
    /// User data.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl Lacking {
    /// The reason of the condition, if it has one of its own.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Vcenter(VcError::NotFound { what, .. } | VcError::Ambiguous { what, .. }) => match *what {
                "network" => Some("NetworkNotFound"),
                _ => Some("CustomizationNotFound"),
            },
            Self::Vcenter(_) => None,
            Self::Guest(error) => Some(error.reason()),
        }
    }

    /// Its kind.
    pub fn category(&self) -> Category {
        match self {
            Self::Vcenter(error) => error.category(),
            Self::Guest(error) if !error.stalled() => Category::Transient,
            Self::Guest(_) => Category::Configuration,
        }
    }
}

impl Blueprint {
    /// Finds all that clones of the group need besides their source. Asks nobody about
    /// what the group does not use.
    pub async fn find(
        source: Source,
        desired: &Desired,
        connected: &Connected,
        vcenter: &Vcenter,
        kube: &Client,
    ) -> Result<Self, Lacking> {
        let make = &desired.make;
        let mut found = Self { source, hardware: Hardware::default(), customization: None, user_data: None };
        if !make.networks.is_empty() || !make.disks_gib.is_empty() {
            let networks = vcenter.find_networks(&connected.site, &make.networks).await?;
            let fittings = vcenter.read_fittings(&found.source.template.id).await?;
            found.hardware = fittings.with(networks, &make.disks_gib)?;
        }
        if let Some(name) = &make.customization {
            found.customization = Some(vcenter.find_customization(name).await?);
        }
        if let Some(from) = &make.user_data {
            found.user_data = Some(guest::read(kube, &desired.group.namespace, from).await?);
        }
        Ok(found)
    }
}
