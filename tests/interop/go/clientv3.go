// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
)

var tests = []test{
	{"kv: puts, gets with every option, deletes", keyValues},
	{"kv: errors are the ones that clients compare with", sentinels},
	{"txn: compares of every kind, nested", transactions},
	{"watch: history, filters, previous values, compaction", watches},
	{"watch: many at once on one stream", manyWatches},
	{"lease: keepalive, time to live, revoke, expiry", leases},
	{"concurrency: a mutex counts without losing", mutexes},
	{"concurrency: a mutex is given up by its context, TryLock says no", impatience},
	{"concurrency: elections and observers", elections},
	{"concurrency: STM at every isolation", memory},
	{"namespace: keys stay below their prefix", namespaces},
	{"mirror: base and updates", mirrors},
	{"leasing: a cache that is told of changes", leasingCache},
	{"ordering: revisions do not go back between endpoints", orderings},
	{"naming: endpoints come and go", resolver},
	{"cluster: members, status, sync", cluster},
	{"maintenance: hash, defragment, snapshot", maintenance},
	{"kubernetes: the calls of an API server", kubernetes},
}

func keyValues(ctx context.Context, here, there *clientv3.Client) error {
	first, err := here.Put(ctx, "k/1", "one")
	if err != nil {
		return err
	}
	for i := 2; i <= 9; i++ {
		if _, err := here.Put(ctx, fmt.Sprintf("k/%d", i), fmt.Sprint(10-i)); err != nil {
			return err
		}
	}
	got, err := there.Get(ctx, "k/1")
	if err != nil {
		return err
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "one" || got.Kvs[0].CreateRevision != first.Header.Revision ||
		got.Kvs[0].Version != 1 || got.Header.Revision != first.Header.Revision+8 {
		return fmt.Errorf("got %v", got)
	}
	got, err = there.Get(ctx, "k/", clientv3.WithPrefix(), clientv3.WithLimit(3),
		clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend))
	if err != nil {
		return err
	}
	if len(got.Kvs) != 3 || !got.More || got.Count != 9 || string(got.Kvs[0].Key) != "k/9" {
		return fmt.Errorf("sorted: %v", got)
	}
	got, err = there.Get(ctx, "k/", clientv3.WithPrefix(), clientv3.WithMinModRev(first.Header.Revision+7),
		clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if len(got.Kvs) != 2 || len(got.Kvs[0].Value) != 0 || got.Count != 9 {
		return fmt.Errorf("filtered: %v", got)
	}
	got, err = there.Get(ctx, "k/5", clientv3.WithFromKey(), clientv3.WithCountOnly(), clientv3.WithSerializable())
	if err != nil {
		return err
	}
	if got.Count < 4 || len(got.Kvs) != 0 {
		return fmt.Errorf("counted: %v", got)
	}
	put, err := here.Put(ctx, "k/1", "two", clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	if put.PrevKv == nil || string(put.PrevKv.Value) != "one" {
		return fmt.Errorf("previous: %v", put)
	}
	got, err = there.Get(ctx, "k/1", clientv3.WithRev(first.Header.Revision))
	if err != nil {
		return err
	}
	if string(got.Kvs[0].Value) != "one" {
		return fmt.Errorf("history: %v", got)
	}
	deleted, err := here.Delete(ctx, "k/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	return want(deleted.Deleted == 9 && len(deleted.PrevKvs) == 9, "deleted %v", deleted)
}

func sentinels(ctx context.Context, here, there *clientv3.Client) error {
	_, err := here.Put(ctx, "", "x")
	if !errors.Is(err, rpctypes.ErrEmptyKey) {
		return fmt.Errorf("empty key: %v", err)
	}
	_, err = here.Put(ctx, "x", "", clientv3.WithLease(404))
	if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("lease: %v", err)
	}
	_, err = here.Put(ctx, "x", "", clientv3.WithIgnoreValue())
	if !errors.Is(err, rpctypes.ErrKeyNotFound) {
		return fmt.Errorf("ignored value: %v", err)
	}
	_, err = here.Get(ctx, "x", clientv3.WithRev(1<<40))
	if !errors.Is(err, rpctypes.ErrFutureRev) {
		return fmt.Errorf("future: %v", err)
	}
	_, err = here.Put(ctx, "x", string(make([]byte, 1600*1024)))
	if !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return fmt.Errorf("large: %v", err)
	}
	_, err = here.Txn(ctx).Then(clientv3.OpPut("x", "1"), clientv3.OpPut("x", "2")).Commit()
	if !errors.Is(err, rpctypes.ErrDuplicateKey) {
		return fmt.Errorf("duplicate: %v", err)
	}
	return nil
}

func transactions(ctx context.Context, here, there *clientv3.Client) error {
	if _, err := here.Put(ctx, "a", "1"); err != nil {
		return err
	}
	got, err := here.Txn(ctx).If(
		clientv3.Compare(clientv3.Value("a"), "=", "1"),
		clientv3.Compare(clientv3.Version("a"), ">", 0),
		clientv3.Compare(clientv3.CreateRevision("b"), "=", 0),
		clientv3.Compare(clientv3.ModRevision("a"), "!=", 0),
		clientv3.Compare(clientv3.LeaseValue("a"), "=", 0),
		clientv3.Compare(clientv3.Value("a").WithPrefix(), "<", "2"),
	).Then(
		clientv3.OpPut("b", "2"),
		clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value("a"), "=", "no")},
			[]clientv3.Op{clientv3.OpPut("c", "wrong")}, []clientv3.Op{clientv3.OpGet("b")}),
		clientv3.OpDelete("a"),
	).Else(clientv3.OpGet("a")).Commit()
	if err != nil {
		return err
	}
	if !got.Succeeded || len(got.Responses) != 3 {
		return fmt.Errorf("got %v", got)
	}
	nested := got.Responses[1].GetResponseTxn()
	if nested.Succeeded || string(nested.Responses[0].GetResponseRange().Kvs[0].Value) != "2" {
		return fmt.Errorf("nested: %v", nested)
	}
	return want(got.Responses[2].GetResponseDeleteRange().Deleted == 1, "deleted: %v", got)
}

func watches(ctx context.Context, here, there *clientv3.Client) error {
	first, err := here.Put(ctx, "w/a", "1")
	if err != nil {
		return err
	}
	for _, value := range []string{"2", "3"} {
		if _, err := here.Put(ctx, "w/a", value); err != nil {
			return err
		}
	}
	if _, err := here.Delete(ctx, "w/a"); err != nil {
		return err
	}
	events := there.Watch(ctx, "w/", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision), clientv3.WithPrevKV())
	var seen []*clientv3.Event
	for len(seen) < 4 {
		response := <-events
		if response.Err() != nil {
			return response.Err()
		}
		seen = append(seen, response.Events...)
	}
	if !seen[0].IsCreate() || !seen[1].IsModify() || seen[3].Type != mvccpb.DELETE ||
		string(seen[3].PrevKv.Value) != "3" {
		return fmt.Errorf("events %v", seen)
	}
	puts := there.Watch(ctx, "w/", clientv3.WithPrefix(), clientv3.WithFilterDelete(), clientv3.WithCreatedNotify())
	if created := <-puts; !created.Created {
		return fmt.Errorf("created %v", created)
	}
	if _, err := here.Delete(ctx, "w/", clientv3.WithPrefix()); err != nil {
		return err
	}
	last, err := here.Put(ctx, "w/b", "4")
	if err != nil {
		return err
	}
	if put := <-puts; len(put.Events) != 1 || string(put.Events[0].Kv.Value) != "4" {
		return fmt.Errorf("filtered %v", put)
	}
	if err := there.RequestProgress(ctx); err != nil {
		return err
	}
	if _, err := here.Compact(ctx, last.Header.Revision); err != nil {
		return err
	}
	if _, err := here.Compact(ctx, last.Header.Revision); !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compacted twice: %v", err)
	}
	/* The other server may learn of it a moment later. */
	if _, err := there.Get(ctx, "x"); err != nil {
		return err
	}
	response := <-there.Watch(ctx, "w/", clientv3.WithRev(first.Header.Revision))
	return want(errors.Is(response.Err(), rpctypes.ErrCompacted) && response.CompactRevision == last.Header.Revision,
		"compacted watch: %v", response)
}

func manyWatches(ctx context.Context, here, there *clientv3.Client) error {
	const watchers, puts = 500, 20
	var got sync.WaitGroup
	var wrong atomic.Int32
	for i := range watchers {
		events := there.Watch(ctx, fmt.Sprintf("m/%d", i%10), clientv3.WithCreatedNotify())
		if response := <-events; !response.Created {
			return fmt.Errorf("watch %d: %v", i, response)
		}
		got.Add(1)
		go func() {
			defer got.Done()
			next := 0
			for next < puts {
				response, open := <-events
				if !open || response.Err() != nil {
					wrong.Add(1)
					return
				}
				for _, event := range response.Events {
					if string(event.Kv.Value) != fmt.Sprint(next) {
						wrong.Add(1)
					}
					next++
				}
			}
		}()
	}
	for n := range puts {
		for key := range 10 {
			if _, err := here.Put(ctx, fmt.Sprintf("m/%d", key), fmt.Sprint(n)); err != nil {
				return err
			}
		}
	}
	got.Wait()
	return want(wrong.Load() == 0, "%d watchers saw something else", wrong.Load())
}

func leases(ctx context.Context, here, there *clientv3.Client) error {
	short, err := here.Grant(ctx, 2)
	if err != nil {
		return err
	}
	long, err := here.Grant(ctx, 2)
	if err != nil {
		return err
	}
	alive, err := there.KeepAlive(ctx, long.ID)
	if err != nil {
		return err
	}
	for key, id := range map[string]clientv3.LeaseID{"l/short": short.ID, "l/long": long.ID} {
		if _, err := here.Put(ctx, key, "x", clientv3.WithLease(id)); err != nil {
			return err
		}
	}
	events := there.Watch(ctx, "l/short")
	ttl, err := there.TimeToLive(ctx, short.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	if ttl.GrantedTTL != 2 || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "l/short" {
		return fmt.Errorf("time to live: %v", ttl)
	}
	if response := <-events; len(response.Events) != 1 || response.Events[0].Type != mvccpb.DELETE {
		return fmt.Errorf("expiry: %v", response)
	}
	if response := <-alive; response == nil || response.TTL != 2 {
		return fmt.Errorf("keepalive: %v", response)
	}
	if got, err := here.Get(ctx, "l/long"); err != nil || len(got.Kvs) != 1 {
		return fmt.Errorf("kept alive: %v %v", got, err)
	}
	if _, err := here.KeepAliveOnce(ctx, 404); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("unknown lease: %v", err)
	}
	if _, err := here.Revoke(ctx, long.ID); err != nil {
		return err
	}
	for range alive {
	}
	all, err := here.Leases(ctx)
	if err != nil {
		return err
	}
	for _, lease := range all.Leases {
		if lease.ID == long.ID {
			return fmt.Errorf("a revoked lease in the list")
		}
	}
	return nil
}

// A session on each client, in turn.
func session(ctx context.Context, i int, clients ...*clientv3.Client) (*concurrency.Session, error) {
	return concurrency.NewSession(clients[i%len(clients)], concurrency.WithTTL(10), concurrency.WithContext(ctx))
}

func mutexes(ctx context.Context, here, there *clientv3.Client) error {
	const workers, rounds = 8, 10
	counter := 0
	errs := make(chan error, workers)
	for i := range workers {
		go func() {
			errs <- func() error {
				s, err := session(ctx, i, here, there)
				if err != nil {
					return err
				}
				defer s.Close()
				mutex := concurrency.NewMutex(s, "mutex")
				for range rounds {
					if err := mutex.Lock(ctx); err != nil {
						return err
					}
					before := counter
					time.Sleep(time.Millisecond)
					counter = before + 1
					if err := mutex.Unlock(ctx); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			return err
		}
	}
	return want(counter == workers*rounds, "counted %d", counter)
}

func impatience(ctx context.Context, here, there *clientv3.Client) error {
	holder, err := session(ctx, 0, here)
	if err != nil {
		return err
	}
	defer holder.Close()
	other, err := session(ctx, 0, there)
	if err != nil {
		return err
	}
	defer other.Close()
	held, wanted := concurrency.NewMutex(holder, "m"), concurrency.NewMutex(other, "m")
	if err := held.Lock(ctx); err != nil {
		return err
	}
	if err := wanted.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		return fmt.Errorf("TryLock: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := wanted.Lock(short); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("Lock: %v", err)
	}
	got, err := here.Get(ctx, "m/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if len(got.Kvs) != 1 {
		return fmt.Errorf("left behind: %v", got.Kvs)
	}
	/* The session of the holder ends: its lock is free. */
	if err := holder.Close(); err != nil {
		return err
	}
	return wanted.Lock(ctx)
}

func elections(ctx context.Context, here, there *clientv3.Client) error {
	a, err := session(ctx, 0, here)
	if err != nil {
		return err
	}
	b, err := session(ctx, 0, there)
	if err != nil {
		return err
	}
	defer b.Close()
	observer := concurrency.NewElection(b, "e").Observe(ctx)
	first, second := concurrency.NewElection(a, "e"), concurrency.NewElection(b, "e")
	if err := first.Campaign(ctx, "a"); err != nil {
		return err
	}
	if got := <-observer; string(got.Kvs[0].Value) != "a" {
		return fmt.Errorf("observed %v", got)
	}
	elected := make(chan error, 1)
	go func() { elected <- second.Campaign(ctx, "b") }()
	if err := first.Proclaim(ctx, "a, again"); err != nil {
		return err
	}
	if got := <-observer; string(got.Kvs[0].Value) != "a, again" {
		return fmt.Errorf("observed %v", got)
	}
	leader, err := second.Leader(ctx)
	if err != nil || string(leader.Kvs[0].Value) != "a, again" {
		return fmt.Errorf("leader %v %v", leader, err)
	}
	if err := a.Close(); err != nil {
		return err
	}
	if err := <-elected; err != nil {
		return err
	}
	if got := <-observer; string(got.Kvs[0].Value) != "b" {
		return fmt.Errorf("observed %v", got)
	}
	if err := first.Proclaim(ctx, "too late"); err == nil {
		return fmt.Errorf("proclaimed without a session")
	}
	return second.Resign(ctx)
}

func memory(ctx context.Context, here, there *clientv3.Client) error {
	const workers, rounds = 4, 10
	for _, isolation := range []concurrency.Isolation{
		concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads,
	} {
		if _, err := here.Delete(ctx, "stm/", clientv3.WithPrefix()); err != nil {
			return err
		}
		errs := make(chan error, workers)
		for i := range workers {
			client := []*clientv3.Client{here, there}[i%2]
			go func() {
				for range rounds {
					_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
						var left, right int
						_, _ = fmt.Sscan(stm.Get("stm/left"), &left)
						_, _ = fmt.Sscan(stm.Get("stm/right"), &right)
						stm.Put("stm/left", fmt.Sprint(left+1))
						stm.Put("stm/right", fmt.Sprint(right-1))
						return nil
					}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(ctx))
					if err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
		}
		for range workers {
			if err := <-errs; err != nil {
				return err
			}
		}
		got, err := here.Get(ctx, "stm/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		if string(got.Kvs[0].Value) != fmt.Sprint(workers*rounds) ||
			string(got.Kvs[1].Value) != fmt.Sprint(-workers*rounds) {
			return fmt.Errorf("isolation %d: %v", isolation, got.Kvs)
		}
	}
	return nil
}

func namespaces(ctx context.Context, here, there *clientv3.Client) error {
	kv := namespace.NewKV(here.KV, "ns/")
	watcher := namespace.NewWatcher(there.Watcher, "ns/")
	first, err := kv.Put(ctx, "a", "1")
	if err != nil {
		return err
	}
	if _, err := here.Put(ctx, "ns0", "outside"); err != nil {
		return err
	}
	got, err := kv.Get(ctx, "", clientv3.WithFromKey())
	if err != nil {
		return err
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Key) != "a" {
		return fmt.Errorf("got %v", got.Kvs)
	}
	response := <-watcher.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision))
	if len(response.Events) != 1 || string(response.Events[0].Kv.Key) != "a" {
		return fmt.Errorf("events %v", response)
	}
	plain, err := there.Get(ctx, "ns/a")
	if err != nil {
		return err
	}
	return want(len(plain.Kvs) == 1, "without the namespace: %v", plain)
}

func mirrors(ctx context.Context, here, there *clientv3.Client) error {
	const keys = 2500 // more than two pages
	for i := 0; i < keys; i += 100 {
		ops := make([]clientv3.Op, 100)
		for j := range ops {
			ops[j] = clientv3.OpPut(fmt.Sprintf("s/%05d", i+j), "x")
		}
		if _, err := here.Txn(ctx).Then(ops...).Commit(); err != nil {
			return err
		}
	}
	syncer := mirror.NewSyncer(there, "s/", 0)
	base, errs := syncer.SyncBase(ctx)
	seen := 0
	for page := range base {
		seen += len(page.Kvs)
	}
	if err := <-errs; err != nil {
		return err
	}
	if seen != keys {
		return fmt.Errorf("%d keys", seen)
	}
	updates := syncer.SyncUpdates(ctx)
	if _, err := here.Put(ctx, "s/new", "y"); err != nil {
		return err
	}
	response := <-updates
	return want(len(response.Events) == 1 && string(response.Events[0].Kv.Value) == "y", "update %v", response)
}

func leasingCache(ctx context.Context, here, there *clientv3.Client) error {
	cache, closeCache, err := leasing.NewKV(here, "leasing/")
	if err != nil {
		return err
	}
	defer closeCache()
	if _, err := there.Put(ctx, "c", "1"); err != nil {
		return err
	}
	for range 3 {
		got, err := cache.Get(ctx, "c")
		if err != nil || string(got.Kvs[0].Value) != "1" {
			return fmt.Errorf("cached: %v %v", got, err)
		}
	}
	other, closeOther, err := leasing.NewKV(there, "leasing/")
	if err != nil {
		return err
	}
	defer closeOther()
	if _, err := other.Put(ctx, "c", "2"); err != nil {
		return err
	}
	got, err := cache.Get(ctx, "c")
	if err != nil {
		return err
	}
	return want(string(got.Kvs[0].Value) == "2", "after the change: %v", got)
}

func orderings(ctx context.Context, here, there *clientv3.Client) error {
	both := config
	both.Endpoints = append(here.Endpoints(), there.Endpoints()...)
	client, err := clientv3.New(both)
	if err != nil {
		return err
	}
	defer client.Close()
	violated := 0
	kv := ordering.NewKV(client.KV, func(op clientv3.Op, resp clientv3.OpResponse, prevRev int64) error {
		violated++
		return nil
	})
	for i := range 200 {
		if _, err := kv.Put(ctx, "o", fmt.Sprint(i)); err != nil {
			return err
		}
		got, err := kv.Get(ctx, "o")
		if err != nil {
			return err
		}
		if string(got.Kvs[0].Value) != fmt.Sprint(i) {
			return fmt.Errorf("round %d: %v", i, got.Kvs)
		}
	}
	return want(violated == 0, "revisions went back %d times", violated)
}

func resolver(ctx context.Context, here, there *clientv3.Client) error {
	manager, err := endpoints.NewManager(here, "service")
	if err != nil {
		return err
	}
	watcher, err := endpoints.NewManager(there, "service")
	if err != nil {
		return err
	}
	updates, err := watcher.NewWatchChannel(ctx)
	if err != nil {
		return err
	}
	if err := manager.AddEndpoint(ctx, "service/a", endpoints.Endpoint{Addr: "1.2.3.4"}); err != nil {
		return err
	}
	var update []*endpoints.Update
	for len(update) == 0 {
		update = <-updates
	}
	if update[0].Op != endpoints.Add || update[0].Endpoint.Addr != "1.2.3.4" {
		return fmt.Errorf("update %v", update[0])
	}
	if err := manager.DeleteEndpoint(ctx, "service/a"); err != nil {
		return err
	}
	update = <-updates
	return want(len(update) == 1 && update[0].Op == endpoints.Delete, "update %v", update)
}

func cluster(ctx context.Context, here, there *clientv3.Client) error {
	members, err := here.MemberList(ctx)
	if err != nil {
		return err
	}
	if len(members.Members) == 0 || len(members.Members[0].ClientURLs) == 0 {
		return fmt.Errorf("members %v", members)
	}
	status, err := here.Status(ctx, here.Endpoints()[0])
	if err != nil {
		return err
	}
	if status.Leader == 0 || status.Version == "" || status.DbSize <= 0 {
		return fmt.Errorf("status %v", status)
	}
	return nil
}

func maintenance(ctx context.Context, here, there *clientv3.Client) error {
	put, err := here.Put(ctx, "h", "1")
	if err != nil {
		return err
	}
	var hashes [2]uint32
	for i, client := range []*clientv3.Client{here, there} {
		if _, err := client.Get(ctx, "h"); err != nil {
			return err
		}
		hash, err := client.HashKV(ctx, client.Endpoints()[0], put.Header.Revision)
		if err != nil {
			return err
		}
		hashes[i] = hash.Hash
	}
	if hashes[0] != hashes[1] {
		return fmt.Errorf("hashes differ: %v", hashes)
	}
	if _, err := here.Defragment(ctx, here.Endpoints()[0]); err != nil {
		return err
	}
	snapshot, err := here.SnapshotWithVersion(ctx)
	if err != nil {
		return err
	}
	defer snapshot.Snapshot.Close()
	buffer, size := make([]byte, 1<<16), 0
	for {
		n, err := snapshot.Snapshot.Read(buffer)
		size += n
		if err != nil {
			break
		}
	}
	alarms, err := here.AlarmList(ctx)
	if err != nil {
		return err
	}
	return want(size%512 == 32 && snapshot.Version != "" && len(alarms.Alarms) == 0,
		"snapshot of %d bytes, version %q, alarms %v", size, snapshot.Version, alarms.Alarms)
}
