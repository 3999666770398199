//go:build tools

// The programs of etcd that ./dev interop builds, so that go.mod keeps their versions.
package main

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/etcdutl/v3"
)
