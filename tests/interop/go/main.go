// SPDX-License-Identifier: Apache-2.0

// interop runs etcd's own Go client through what programs do with it, against one endpoint, and prints TAP.
//
//	interop [-cacert FILE] [-user NAME:PASSWORD] [-only TEXT] ENDPOINT [ENDPOINT]
//
// With a second endpoint (another server of the same database) whoever waits or watches does so there.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// A test fails by returning an error; "want" keeps the comparisons short.
type test struct {
	name string
	run  func(ctx context.Context, here, there *clientv3.Client) error
}

// How every client is made, but for its endpoints.
var config = clientv3.Config{DialTimeout: 5 * time.Second, Logger: zap.NewNop()}

func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func tlsConfig(cacert string) (*tls.Config, error) {
	if cacert == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(cacert)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", cacert)
	}
	return &tls.Config{RootCAs: pool}, nil
}

func main() {
	cacert := flag.String("cacert", "", "certificate authority of the servers")
	user := flag.String("user", "", "NAME:PASSWORD")
	only := flag.String("only", "", "run tests whose names contain this")
	flag.Parse()
	if flag.NArg() < 1 {
		flag.Usage()
		os.Exit(2)
	}
	var err error
	if config.TLS, err = tlsConfig(*cacert); err != nil {
		fmt.Println("Bail out!", err)
		os.Exit(99)
	}
	config.Username, config.Password, _ = strings.Cut(*user, ":")
	var clients [2]*clientv3.Client
	for i := range clients {
		config.Endpoints = []string{flag.Arg(min(i, flag.NArg()-1))}
		if clients[i], err = clientv3.New(config); err != nil {
			fmt.Println("Bail out!", err)
			os.Exit(99)
		}
		defer clients[i].Close()
	}

	failed, count := 0, 0
	for _, t := range tests {
		if !strings.Contains(t.name, *only) {
			continue
		}
		count++
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		_, err := clients[0].Delete(ctx, "", clientv3.WithPrefix())
		if err == nil {
			err = t.run(ctx, clients[0], clients[1])
		}
		cancel()
		switch {
		case err != nil:
			fmt.Printf("not ok %d - %s\n# %s\n", count, t.name, strings.ReplaceAll(err.Error(), "\n", "\n# "))
			failed++
		default:
			fmt.Printf("ok %d - %s\n", count, t.name)
		}
	}
	fmt.Printf("1..%d\n", count)
	if failed > 0 {
		os.Exit(1)
	}
}
