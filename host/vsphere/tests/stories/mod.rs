//! The stories that both vCenters have to tell alike.

use vmgroup_vsphere::{
    Child, Error, Event, FaultKind, PowerState, SiteSelection, TaskInfo, TaskRef, TaskState, Vcenter,
};

use crate::common::{KEY, Seen, clone_spec, follow, selection};

fn made(info: &TaskInfo) -> vmgroup_vsphere::VmRef {
    match &info.state {
        TaskState::Success { result: Some(object) } => vmgroup_vsphere::VmRef::new(&object.id),
        other => panic!("{other:?}"),
    }
}

/// The whole life of one machine, seen both ways: by the watch and afresh.
#[allow(clippy::too_many_lines, reason = "one story, told in order")]
pub async fn life_of_a_machine(vcenter: &Vcenter, template: &str, group: &str, member: &str) {
    const UUID: &str = "5035aa10-0000-4000-8000-0000000000aa";
    let about = vcenter.connect().await.unwrap();
    assert!(!about.api_version.is_empty());
    let mut site = vcenter.resolve_site(&selection()).await.unwrap();
    let template = vcenter.find_template(&site, template).await.unwrap();
    assert!(template.is_template);

    let seen = Seen::new();
    let watch = vcenter.start_watch(&site, seen.clone());
    seen.synced().await;
    assert!(watch.inventory().synced() && watch.inventory().age().is_some());

    // A folder, its duplicate, and names that need escaping.
    let root = site.root_folder.clone();
    let folder = vcenter.create_folder(&root, group).await.unwrap();
    let error = vcenter.create_folder(&root, group).await.unwrap_err();
    assert!(matches!(error.fault(), Some(FaultKind::DuplicateName { .. })), "{error:?}");
    let told = seen
        .find("the folder", |event| match event {
            Event::FolderChanged(changed) if changed.id == folder => Some(changed.clone()),
            _ => None,
        })
        .await;
    assert_eq!(told.name, group);
    assert_eq!(told.parent.as_ref(), Some(&root));
    assert_eq!(watch.inventory().folder_by_name(&root, group).map(|folder| folder.id.clone()), Some(folder.clone()));
    assert_eq!(vcenter.find_child(&root, group).await.unwrap(), Some(Child::Folder(folder.clone(), group.to_owned())));
    assert_eq!(vcenter.find_child(&root, "nobody").await.unwrap(), None);

    // A clone.
    site.root_folder = folder.clone();
    let mut spec = clone_spec(&site, &template, member, UUID);
    spec.folder = folder.clone();
    let task = vcenter.clone_vm(&spec).await.unwrap();
    let recent = vcenter.recent_tasks().await.unwrap();
    assert!(recent.iter().any(|info| info.id == task), "{recent:?}");
    let info = follow(&watch, &seen, task.clone()).await;
    let id = made(&info);
    assert_eq!(info.entity.as_ref().unwrap().id, template.id.as_str());
    let read = vcenter.read_task(&task).await.unwrap().unwrap();
    assert_eq!(read.state, info.state);

    let fresh = vcenter.read_vm(&id).await.unwrap().unwrap();
    assert_eq!(fresh.name, member);
    assert_eq!(fresh.parent.as_ref(), Some(&folder));
    assert_eq!(fresh.instance_uuid, UUID);
    assert_eq!((fresh.cpus, fresh.memory_mib), (2, 2048));
    assert_eq!(fresh.power, PowerState::Off);
    assert!(!fresh.template && fresh.host.is_some() && fresh.pool.is_some());
    assert_eq!(fresh.extra.iter().collect::<Vec<_>>(), [("owner.name", "a<b>&c"), (KEY, "uid-1")]);
    seen.vm("the machine with its mark", |vm| vm.id == id && vm.extra.get(KEY).is_some() && vm.cpus == 2).await;
    let inventory = watch.inventory();
    assert_eq!(inventory.indexed("uid-1").len(), 1);
    assert_eq!(inventory.vm_by_uuid(UUID).unwrap().id, id);
    assert_eq!(inventory.in_folder(&folder)[0].name, member);
    assert!(inventory.names().iter().any(|(_, within, name)| *within == folder && name == member));
    assert_eq!(vcenter.find_by_uuid(UUID).await.unwrap()[0].id, id);
    assert_eq!(vcenter.find_by_uuid("nobody").await.unwrap(), []);
    let listed = vcenter.list_folder(&folder).await.unwrap().unwrap();
    assert!(matches!(listed.as_slice(), [Child::Vm(vm)] if vm.id == id), "{listed:?}");
    let listed = vcenter.list_folder(&root).await.unwrap().unwrap();
    assert!(listed.contains(&Child::Folder(folder.clone(), group.to_owned())), "{listed:?}");
    let marked = vcenter.list_marked(&site.root_folder, "uid-1").await.unwrap();
    assert_eq!(marked.len(), 1);
    assert_eq!(vcenter.list_marked(&site.root_folder, "uid-2").await.unwrap(), []);

    // The name again: the task fails by type.
    let again = vcenter.clone_vm(&spec).await.unwrap();
    let info = follow(&watch, &seen, again).await;
    assert!(
        matches!(&info.state, TaskState::Error(fault) if matches!(fault.kind, FaultKind::DuplicateName { .. })),
        "{info:?}"
    );

    // Power.
    let info = follow(&watch, &seen, vcenter.power_on(&id).await.unwrap()).await;
    assert!(matches!(info.state, TaskState::Success { .. }), "{info:?}");
    seen.vm("the machine on", |vm| vm.id == id && vm.power == PowerState::On).await;
    let info = follow(&watch, &seen, vcenter.power_on(&id).await.unwrap()).await;
    let TaskState::Error(fault) = &info.state else {
        panic!("{info:?}");
    };
    assert_eq!(
        fault.kind,
        FaultKind::InvalidPowerState { requested: "poweredOn".to_owned(), existing: "poweredOn".to_owned() }
    );
    let usage = vcenter.usage(std::slice::from_ref(&id)).await.unwrap();
    assert_eq!(usage.len(), 1);

    // Room.
    let capacity = vcenter.capacity(&site).await.unwrap();
    assert_eq!(capacity.clusters.len(), 1);
    assert_eq!(capacity.hosts.len(), 3);
    assert_eq!(capacity.datastores.len(), 1);
    assert!(capacity.hosts.iter().all(|host| host.usable() && host.cpu_mhz > 0 && host.memory_mib > 0));
    assert_eq!(capacity.datastores[0].hosts.len(), 3);
    assert!(capacity.datastores[0].usable && capacity.datastores[0].free_mib > 0);
    assert!(capacity.hosts.iter().map(|host| host.vms).sum::<u32>() > 0);

    // The end, and what is gone is told as gone.
    follow(&watch, &seen, vcenter.power_off(&id).await.unwrap()).await;
    let info = follow(&watch, &seen, vcenter.destroy_vm(&id).await.unwrap()).await;
    assert!(matches!(info.state, TaskState::Success { .. }), "{info:?}");
    seen.find("the machine's end", |event| match event {
        Event::VmGone(vm) if vm.id == id => Some(()),
        _ => None,
    })
    .await;
    assert!(watch.inventory().indexed("uid-1").is_empty());
    assert_eq!(vcenter.read_vm(&id).await.unwrap(), None);
    let error = vcenter.destroy_vm(&id).await.unwrap_err();
    assert_eq!(error.category(), vmgroup_vsphere::Category::Gone);
    assert!(!error.outcome_unknown());
    assert_eq!(vcenter.usage(std::slice::from_ref(&id)).await.unwrap().len(), 0);
    assert_eq!(vcenter.list_folder(&folder).await.unwrap(), Some(vec![]));
    follow(&watch, &seen, vcenter.destroy_folder(&folder).await.unwrap()).await;
    seen.find("the folder's end", |event| match event {
        Event::FolderGone(gone) if gone.id == folder => Some(()),
        _ => None,
    })
    .await;
    assert_eq!(vcenter.list_folder(&folder).await.unwrap(), None);
    assert_eq!(vcenter.find_child(&folder, "x").await.unwrap(), None);

    // A task that nobody knows.
    let nobody = TaskRef::new("task-99999");
    assert_eq!(vcenter.read_task(&nobody).await.unwrap(), None);
    watch.track(nobody.clone(), None);
    seen.find("the unknown task", |event| match event {
        Event::TaskGone(task) if *task == nobody => Some(()),
        _ => None,
    })
    .await;
    assert!(!seen.events().iter().any(|event| matches!(event, Event::Lost { .. })), "nothing was lost");
}

/// What people get wrong about a site.
pub async fn sites_that_are_not(vcenter: &Vcenter, template: &str) {
    let ask = |change: fn(&mut SiteSelection)| {
        let mut asked = selection();
        change(&mut asked);
        async move { vcenter.resolve_site(&asked).await }
    };
    let error = ask(|s| s.datacenter = Some("DC9".into())).await.unwrap_err();
    assert!(error.to_string().contains("/DC0"), "{error}");
    let error = ask(|s| s.pool_or_cluster = Some("C9".into())).await.unwrap_err();
    assert!(error.to_string().contains("/DC0/host/DC0_C0/Resources"), "{error}");
    let error = ask(|s| s.datastore = Some("nope".into())).await.unwrap_err();
    assert!(error.to_string().contains("LocalDS_0"), "{error}");
    let error = ask(|s| s.root_folder = Some("teams/vm".into())).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("govc folder.create '/DC0/vm/teams/vm'") && message.contains("vm-operator"), "{message}");
    for good in ["/DC0/host/DC0_C0", "/DC0/host/DC0_C0/Resources"] {
        let mut asked = selection();
        asked.pool_or_cluster = Some(good.to_owned());
        asked.root_folder = Some("/DC0/vm/vm-operator".to_owned());
        asked.datastore = Some("*".to_owned());
        let site = vcenter.resolve_site(&asked).await.unwrap();
        assert_eq!(site.root_path, "/DC0/vm/vm-operator");
        assert_eq!(site.clusters[0].pool_path, "/DC0/host/DC0_C0/Resources");
        assert_eq!(site.datacenter.name, "DC0");
    }
    let site = vcenter.resolve_site(&selection()).await.unwrap();
    let error = vcenter.find_template(&site, "nope").await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { candidates, .. } if candidates == &[template]), "{error:?}");
    let found = vcenter.find_template(&site, &format!("/DC0/vm/{template}")).await.unwrap();
    assert_eq!(found.path, format!("/DC0/vm/{template}"));
}
