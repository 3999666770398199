#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes ./configure from configure.ac and Makefile.am; needed after a git clone, not in a release.
set -e
cd "$(dirname "$0")"
exec autoreconf --force --install --warnings=all
