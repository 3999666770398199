#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# TLS to PostgreSQL, with certificates of "kineshim pki": verify-full, client certificates, passwords from everywhere they may
# come from, and errors that say what is wrong without giving a secret away. Prints TAP.
set -u

# shellcheck source=tests/lib/program.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/program.sh"
ks_program pgtls etcdctl psql
pg=$(ks_tmpdir pgtls-pg) || exit 99
pg_init "$pg" || { echo "Bail out! no PostgreSQL"; exit 99; }
secret=s3cr3t-d4t4base
port=$(pg_port "$pg")

"$kineshim" pki init --dir=pki >/dev/null && "$kineshim" pki server 127.0.0.1 --dir=pki >/dev/null &&
	"$kineshim" pki client robot --dir=pki >/dev/null && "$kineshim" pki init --dir=other >/dev/null
check $? "kineshim pki makes what a database needs"
for file in ca.pem server.pem server.key; do
	install -m 0600 -o "$(pg_user)" "pki/$file" "$pg/data/$file"
done
{
	echo "local all postgres trust"
	echo "hostssl all kineshim 127.0.0.1/32 scram-sha-256"
	echo "hostssl all robot 127.0.0.1/32 cert"
} >hba
install -m 0600 -o "$(pg_user)" hba "$pg/data/pg_hba.conf"
pg_run "$pg" psql -qX -v ON_ERROR_STOP=1 -c "ALTER ROLE kineshim PASSWORD '$secret'" -c "CREATE ROLE robot LOGIN" \
	-c "CREATE DATABASE robot OWNER robot" -c "ALTER SYSTEM SET ssl = on" \
	-c "ALTER SYSTEM SET ssl_cert_file = 'server.pem'" -c "ALTER SYSTEM SET ssl_key_file = 'server.key'" \
	-c "ALTER SYSTEM SET ssl_ca_file = 'ca.pem'" && pg_restart "$pg" || { cat "$pg/log"; echo "Bail out! no TLS"; exit 99; }

serves() { # NAME: what was started as NAME does
	until_true 20 grep -q 'ready to serve' "$1.log" && [ "$(timeout 20 etcdctl --endpoints="$url" put k "$1")" = OK ]
	result=$?
	cp "$1.log" why
	kill -KILL "$started" 2>/dev/null
	wait "$started" 2>/dev/null
	return "$result"
}

try() { # NAME FLAGS…
	url=http://127.0.0.1:$(ks_free_port)
	start "$@" --listen-client-urls="$url"
}

says() { # NAME TEXT: it does not serve, and its log says that
	until_true 15 grep -q -- "$2" "$1.log" && ! grep -q 'ready to serve' "$1.log"
	result=$?
	cp "$1.log" why
	kill -KILL "$started" 2>/dev/null
	wait "$started" 2>/dev/null
	return "$result"
}

tls="sslmode=verify-full&sslrootcert=$dir/pki/ca.pem"
(umask 077 && echo "postgres://kineshim:$secret@127.0.0.1:$port/kineshim?$tls" >endpoint)
url=http://127.0.0.1:$(ks_free_port)
start full --endpoint-file=endpoint --listen-client-urls="$url"
until_true 20 grep -q 'ready to serve' full.log
pg_run "$pg" psql -X -t -A -c "SELECT count(*) > 2 AND bool_and(ssl AND version = 'TLSv1.3') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'kineshim'" |
	tee why | grep -qx t
check $? "with verify-full and a password from a file every connection is TLS 1.3"
! tr '\0' ' ' <"/proc/$started/cmdline" | tee why | grep -q "$secret"
check $? "and no process title has the password"
serves full
check $? "it serves"

endpoint="postgres://kineshim@127.0.0.1:$port/kineshim?$tls"
(umask 077 && echo "127.0.0.1:$port:*:kineshim:$secret" >passfile)
try passfile --endpoint="$endpoint&passfile=$dir/passfile"
serves passfile
check $? "the password may come from a passfile"
export PGPASSFILE=$dir/passfile
try pgpassfile --endpoint="$endpoint"
serves pgpassfile
check $? "which PGPASSFILE may name"
unset PGPASSFILE
export PGPASSWORD=$secret
try pgpassword --endpoint="$endpoint"
serves pgpassword
check $? "or from PGPASSWORD"
unset PGPASSWORD
export KINESHIM_ENDPOINT="postgres://kineshim:$secret@127.0.0.1:$port/kineshim?$tls"
try variable
serves variable
check $? "the endpoint may come from KINESHIM_ENDPOINT"
unset KINESHIM_ENDPOINT

robot="postgres://robot@127.0.0.1:$port/robot?$tls"
try cert --endpoint="$robot&sslcert=$dir/pki/robot.pem&sslkey=$dir/pki/robot.key"
serves cert
check $? "a client certificate is enough where the server takes it"
try nocert --endpoint="$robot"
says nocert 'warn .*connection requires a valid client certificate'
check $? "and without it the log says so"

try wrongca --endpoint="postgres://kineshim:$secret@127.0.0.1:$port/kineshim?sslmode=verify-full&sslrootcert=$dir/other/ca.pem"
says wrongca 'warn .*certificate verify failed'
check $? "another CA's server is not spoken to"
try wronghost --endpoint="postgres://kineshim:$secret@localhost:$port/kineshim?$tls&hostaddr=127.0.0.1"
says wronghost 'warn .*does not match host name "localhost"'
check $? "nor one with another name"
try wrongpassword --endpoint="postgres://kineshim:not-$secret@127.0.0.1:$port/kineshim?$tls"
says wrongpassword 'warn .*password authentication failed for user "kineshim"'
check $? "a wrong password is named as such"
try plain --endpoint="postgres://kineshim:$secret@127.0.0.1:$port/kineshim?sslmode=disable"
says plain 'warn .*no pg_hba.conf entry .*no encryption'
check $? "and so is a connection without TLS that the server does not want"
try nofile --endpoint="postgres://kineshim:$secret@127.0.0.1:$port/kineshim?sslmode=verify-full&sslrootcert=$dir/nowhere.pem"
says nofile 'warn .*nowhere.pem" does not exist'
check $? "a file that is not there is named"
grep -l "$secret" -- *.log >why
[ ! -s why ]
check $? "no log has the password"

echo "1..$point"
exit "$failed"
