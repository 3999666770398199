#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A short torture of each database with a fixed seed, for make check; ./dev torture is the long one. Prints TAP.

exec "$(dirname "${BASH_SOURCE[0]}")/run" --seed "${KS_TEST_SEED:-4}" --database "${KS_TORTURE_DATABASES:-sqlite:8,postgres:20,mariadb:15,galera:15}"
