#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Apache APISIX's etcd client through an agent that passes writes on: everything that client sends, byte for byte in form, and what it relies on
(tests/interop/resty.py), with an etcd and with a kineshim above."""
import pathlib
import subprocess
import sys

import harness

RESTY = pathlib.Path(__file__).resolve().parents[1] / "interop" / "resty.py"


def what_apisix_sends_is_answered_as_by_an_etcd(s):
    agent = s.agent(args=["--forward-writes", "--prefix="])
    done = subprocess.run([sys.executable, str(RESTY), f"127.0.0.1:{agent.port}"], capture_output=True, text=True, timeout=120)
    points = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "not ok "))]
    assert done.returncode == 0 and len(points) >= 16 and all(p.startswith("ok ") for p in points), done.stdout[-3000:] + done.stderr


if __name__ == "__main__":
    harness.main([what_apisix_sends_is_answered_as_by_an_etcd], both=True)
