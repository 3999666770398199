// SPDX-License-Identifier: Apache-2.0

// porcupine FILE: a second opinion on the history of a torture run, by a search that believes no revision: are the acknowledged
// operations those of registers that change at one moment between call and answer? Each group of keys is checked by itself; what
// spans several groups is cut into its groups.
//
// What nobody was told the outcome of, and the end of a lease, comes in as watchers saw it: a change of these values to those, some
// time between the start of the newest operation that it needs and when somebody was told of it. Serializable reads and reads of old
// revisions are left out. Exit status: 0 linearizable, 1 not, 2 usage, 3 no verdict in time.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/anishathalye/porcupine"
)

const groupKeys = 5

// What action kinds and comparison targets are in the file.
const (
	get = iota
	put
	remove
)
const compareValue = 3

type line struct {
	Type         string            `json:"t"`
	Kind         int               `json:"k"`
	Outcome      string            `json:"o"`
	Client       int               `json:"c"`
	Start        int64             `json:"s"`
	End          int64             `json:"e"`
	Revision     int64             `json:"rev"`
	Serializable int               `json:"ser"`
	At           int64             `json:"at"` // operations: a revision; watchers: the time
	Compares     [][]int64         `json:"cmp"`
	Then         [][]int64         `json:"then"`
	Else         [][]int64         `json:"else"`
	Succeeded    int               `json:"ok"`
	Results      []json.RawMessage `json:"res"`
	Watcher      int               `json:"w"`
	Prev         int               `json:"prev"`
	Events       []json.RawMessage `json:"ev"`
}

// The values of a group's keys; 0: there is none.
type state [groupKeys]int64

type action struct {
	kind     int
	from, to int // in the group
	value    int64
	saw      state // a get
}

type change struct {
	key           int // in the group
	before, after int64
}

// What happens in one group: actions of a client, or a change that watchers saw.
type input struct {
	name      string
	compares  [][]int64 // only of values; the others are believed
	succeeded bool
	actions   []action
	changes   []change
}

func step(s state, in *input) (bool, state) {
	for _, c := range in.changes {
		if s[c.key] != c.before {
			return false, s
		}
		s[c.key] = c.after
	}
	holds := true
	for _, c := range in.compares {
		value := s[c[0]%groupKeys]
		holds = holds && value != 0 && (c[2] == 0) == (value == c[3])
	}
	if len(in.compares) > 0 && holds != in.succeeded {
		return false, s
	}
	for _, a := range in.actions {
		for key := a.from; key < a.to; key++ {
			switch a.kind {
			case get:
				if a.saw[key] != s[key] {
					return false, s
				}
			case put:
				s[key] = a.value
			case remove:
				s[key] = 0
			}
		}
	}
	return true, s
}

var model = porcupine.Model{
	Init: func() interface{} { return state{} },
	Step: func(s, in, _ interface{}) (bool, interface{}) {
		ok, after := step(s.(state), in.(*input))
		return ok, after
	},
	Equal: func(a, b interface{}) bool { return a.(state) == b.(state) },
}

// The keys and values of a result: [count, [key, value, …], …].
func valuesOf(raw json.RawMessage) (map[int]int64, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, err
	}
	values := map[int]int64{}
	for _, item := range items[1:] {
		var kv []int64
		if err := json.Unmarshal(item, &kv); err != nil {
			return nil, err
		}
		values[int(kv[0])] = kv[1]
	}
	return values, nil
}

// The parts of an acknowledged operation, by group.
func inputsOf(l *line) (map[int]*input, bool, error) {
	inputs := map[int]*input{}
	wrote := false
	actions := l.Else
	if l.Succeeded != 0 {
		actions = l.Then
	}
	for i, f := range actions {
		values, err := valuesOf(l.Results[i])
		if err != nil {
			return nil, false, err
		}
		var count int64
		fmt.Sscanf(string(l.Results[i]), "[%d", &count)
		wrote = wrote || f[0] == put || (f[0] == remove && count > 0)
		for key := int(f[1]); key < int(f[2]); key++ {
			group := key / groupKeys
			in := inputs[group]
			if in == nil {
				in = &input{name: l.Outcome, succeeded: l.Succeeded != 0}
				inputs[group] = in
			}
			a := action{kind: int(f[0]), from: key % groupKeys, to: key%groupKeys + 1, value: f[3]}
			a.saw[key%groupKeys] = values[key]
			in.actions = append(in.actions, a)
		}
	}
	onlyValues := true
	for _, c := range l.Compares {
		onlyValues = onlyValues && c[1] == compareValue
	}
	if onlyValues && len(l.Compares) > 0 {
		group := int(l.Compares[0][0]) / groupKeys // those of a transaction are in its group
		if inputs[group] == nil {
			inputs[group] = &input{succeeded: l.Succeeded != 0}
		}
		inputs[group].compares = l.Compares
	}
	return inputs, wrote, nil
}

// What was told of one revision.
type seen struct {
	at      int64 // first
	changes []change
	keys    []int
}

type history struct {
	groups  map[int][]porcupine.Operation
	started map[int64]int64 // when the operation began that writes this value
	written map[int64]bool  // revisions of acknowledged writes
	told    map[int64]*seen
	prev    map[int]bool // watchers that are told what was before
}

func (h *history) addOp(l *line) error {
	if l.Kind != 0 || l.Outcome == "failed" {
		return nil
	}
	for _, actions := range [][][]int64{l.Then, l.Else} {
		for _, f := range actions {
			if f[0] == put {
				h.started[f[3]] = l.Start
			}
		}
	}
	if l.Outcome != "ok" || l.Serializable != 0 || l.At != 0 {
		return nil
	}
	inputs, wrote, err := inputsOf(l)
	if err != nil {
		return err
	}
	if wrote {
		h.written[l.Revision] = true
	}
	for group, in := range inputs {
		h.groups[group] = append(h.groups[group],
			porcupine.Operation{ClientId: l.Client, Input: in, Call: l.Start, Return: l.End})
	}
	return nil
}

func (h *history) addWatch(l *line) error {
	if l.Kind == 0 {
		h.prev[l.Watcher] = l.Prev != 0
	}
	if !h.prev[l.Watcher] {
		return nil
	}
	for _, raw := range l.Events {
		var parts []json.RawMessage
		var kv, before []int64
		if err := json.Unmarshal(raw, &parts); err != nil {
			return err
		}
		if err := json.Unmarshal(parts[1], &kv); err != nil {
			return err
		}
		c := change{key: int(kv[0]) % groupKeys, after: kv[1]}
		if len(parts) > 2 {
			if err := json.Unmarshal(parts[2], &before); err != nil {
				return err
			}
			c.before = before[1]
		}
		s := h.told[kv[3]]
		if s == nil {
			s = &seen{at: l.At}
			h.told[kv[3]] = s
		}
		if l.At < s.at {
			s.at = l.At
		}
		known := false
		for _, key := range s.keys {
			known = known || key == int(kv[0])
		}
		if !known {
			s.changes = append(s.changes, c)
			s.keys = append(s.keys, int(kv[0]))
		}
	}
	return nil
}

// Revisions that no acknowledged operation made.
func (h *history) addUnowned() int {
	count := 0
	for revision, s := range h.told {
		if h.written[revision] {
			continue
		}
		count++
		inputs := map[int]*input{}
		call := int64(0)
		for i, c := range s.changes {
			group := s.keys[i] / groupKeys
			if inputs[group] == nil {
				inputs[group] = &input{name: "seen"}
			}
			inputs[group].changes = append(inputs[group].changes, c)
			for _, value := range []int64{c.before, c.after} {
				if value != 0 && h.started[value] > call {
					call = h.started[value]
				}
			}
		}
		if call >= s.at {
			call = s.at - 1 // told of before it began: let the search say so
		}
		for group, in := range inputs {
			h.groups[group] = append(h.groups[group],
				porcupine.Operation{ClientId: 100000 + int(revision), Input: in, Call: call, Return: s.at})
		}
	}
	return count
}

func read(path string) (*history, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	h := &history{map[int][]porcupine.Operation{}, map[int64]int64{}, map[int64]bool{}, map[int64]*seen{}, map[int]bool{}}
	scanner := bufio.NewScanner(file)
	scanner.Buffer(make([]byte, 1<<20), 1<<23)
	for number := 1; scanner.Scan(); number++ {
		var head struct {
			Type string `json:"t"`
		}
		if err = json.Unmarshal(scanner.Bytes(), &head); err == nil && (head.Type == "op" || head.Type == "watch") {
			var l line
			if err = json.Unmarshal(scanner.Bytes(), &l); err == nil && l.Type == "op" {
				err = h.addOp(&l)
			} else if err == nil {
				err = h.addWatch(&l)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, err)
		}
	}
	return h, scanner.Err()
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: porcupine FILE [SECONDS]")
		os.Exit(2)
	}
	seconds := 60
	if len(os.Args) > 2 {
		seconds, _ = strconv.Atoi(os.Args[2])
	}
	h, err := read(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	unowned := h.addUnowned()
	status, total := 0, 0
	began := time.Now()
	for group := 0; group < len(h.groups); group++ {
		total += len(h.groups[group])
		switch porcupine.CheckOperationsTimeout(model, h.groups[group], time.Duration(seconds)*time.Second) {
		case porcupine.Illegal:
			fmt.Printf("# porcupine: group %d is not linearizable\n", group)
			status = 1
		case porcupine.Unknown:
			fmt.Printf("# porcupine: no verdict on group %d after %d s\n", group, seconds)
			if status == 0 {
				status = 3
			}
		}
	}
	if status == 0 {
		fmt.Printf("# porcupine: %d groups, %d operations and parts of them, %d changes that only watchers saw: linearizable, in %d ms\n",
			len(h.groups), total, unowned, time.Since(began).Milliseconds())
	}
	os.Exit(status)
}
