// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What kube-apiserver sends: creates, optimistic updates and deletes, lists in pages at one revision, a watch with previous values
// and progress, and the compaction that its replicas agree on.
func kubernetes(ctx context.Context, here, there *clientv3.Client) error {
	const prefix = "/registry/pods/"
	key := func(i int) string { return fmt.Sprintf("%sdefault/pod-%04d", prefix, i) }
	created := make([]int64, 30)
	list, err := there.Get(ctx, prefix, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(1))
	if err != nil {
		return err
	}
	events := there.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithRev(list.Header.Revision+1), clientv3.WithPrevKV(),
		clientv3.WithPrefix(), clientv3.WithProgressNotify())
	for i := range created {
		txn, err := here.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key(i)), "=", 0)).
			Then(clientv3.OpPut(key(i), "new")).Commit()
		if err != nil {
			return err
		}
		put := txn.Responses[0].GetResponsePut()
		if !txn.Succeeded || put.Header == nil || put.Header.Revision != txn.Header.Revision {
			return fmt.Errorf("create: %v", txn)
		}
		created[i] = put.Header.Revision
	}
	again, err := here.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key(0)), "=", 0)).
		Then(clientv3.OpPut(key(0), "twice")).Commit()
	if err != nil || again.Succeeded {
		return fmt.Errorf("created twice: %v %v", again, err)
	}

	update := func(i int, revision int64) (*clientv3.TxnResponse, error) {
		return here.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key(i)), "=", revision)).
			Then(clientv3.OpPut(key(i), "changed")).Else(clientv3.OpGet(key(i))).Commit()
	}
	changed, err := update(0, created[0])
	if err != nil || !changed.Succeeded {
		return fmt.Errorf("update: %v %v", changed, err)
	}
	stale, err := update(0, created[0])
	if err != nil || stale.Succeeded || stale.Responses[0].GetResponseRange().Kvs[0].ModRevision != changed.Header.Revision {
		return fmt.Errorf("stale update: %v %v", stale, err)
	}
	deleted, err := here.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key(1)), "=", created[1])).
		Then(clientv3.OpDelete(key(1))).Else(clientv3.OpGet(key(1))).Commit()
	if err != nil || !deleted.Succeeded || deleted.Responses[0].GetResponseDeleteRange().Header == nil {
		return fmt.Errorf("delete: %v %v", deleted, err)
	}

	// Pages at the revision of the first one, though things change meanwhile.
	end := clientv3.GetPrefixRangeEnd(prefix)
	next, revision, seen := prefix, int64(0), 0
	for {
		page, err := there.Get(ctx, next, clientv3.WithRange(end), clientv3.WithLimit(7), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		seen += len(page.Kvs)
		if left := page.Count - int64(len(page.Kvs)); left != int64(len(created)-1-seen) {
			return fmt.Errorf("%d left after %d", left, seen)
		}
		if !page.More {
			break
		}
		next = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		if _, err := here.Put(ctx, key(2000+seen), "in between"); err != nil {
			return err
		}
	}
	if seen != len(created)-1 {
		return fmt.Errorf("listed %d", seen)
	}
	count, err := there.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || count.Count < int64(seen) {
		return fmt.Errorf("count: %v %v", count, err)
	}

	last := int64(0)
	var got []*clientv3.Event
	for last < deleted.Header.Revision {
		response := <-events
		if err := response.Err(); err != nil {
			return err
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision < last || (!event.IsCreate() && event.PrevKv == nil) {
				return fmt.Errorf("event %v after %d", event, last)
			}
			last = event.Kv.ModRevision
			got = append(got, event)
		}
	}
	if got[len(created)].PrevKv == nil || string(got[len(created)].PrevKv.Value) != "new" ||
		got[len(created)+1].Type != mvccpb.DELETE {
		return fmt.Errorf("events %v", got[len(created):])
	}

	// Two API servers: one of them wins the right to compact.
	compact := func(version, revision int64) (*clientv3.TxnResponse, error) {
		return here.Txn(ctx).If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version)).
			Then(clientv3.OpPut("compact_rev_key", fmt.Sprint(revision))).Else(clientv3.OpGet("compact_rev_key")).Commit()
	}
	won, err := compact(0, revision)
	if err != nil || !won.Succeeded {
		return fmt.Errorf("compact_rev_key: %v %v", won, err)
	}
	lost, err := compact(0, revision)
	if err != nil || lost.Succeeded || lost.Responses[0].GetResponseRange().Kvs[0].Version != 1 {
		return fmt.Errorf("compact_rev_key, twice: %v %v", lost, err)
	}
	if _, err := here.Compact(ctx, revision); err != nil {
		return err
	}
	if _, err := here.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(created[2])); !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("list of a compacted revision: %v", err)
	}

	lease, err := here.Grant(ctx, 3600)
	if err != nil {
		return err
	}
	for i := range 3 {
		if _, err := here.Put(ctx, fmt.Sprintf("/registry/events/%d", i), "e", clientv3.WithLease(lease.ID)); err != nil {
			return err
		}
	}
	if _, err := there.Get(ctx, "/registry/health"); err != nil {
		return err
	}
	return there.RequestProgress(clientv3.WithRequireLeader(ctx))
}
