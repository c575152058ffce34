//! The real components: kube-apiserver, etcd, vcsim.
