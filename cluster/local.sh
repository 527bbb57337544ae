#!/usr/bin/env bash
# A Ray head on this machine and one job submitted to it; what follows goes to jobs/train.py:
#   cluster/local.sh world=$PWD/runs/demo-7/world run_dir=$PWD/runs/submitted
# The dashboard is at http://127.0.0.1:8265. The head stays up for the next job; `.venv/bin/ray stop` ends it, and with
# it every other Ray of this user. Needs `.venv/bin/pip install -e ".[cluster]"`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export RAY_AUTH_MODE=token # left unset, whether Ray 2.60 asks for a token depends on whether the file exists
umask 077
test -f ~/.ray/auth_token || .venv/bin/ray get-auth-token --generate >/dev/null

# 4 logical CPUs whatever the machine has: with fewer, a resumed run waits for ever.
.venv/bin/ray status --address 127.0.0.1:6379 >/dev/null 2>&1 ||
    .venv/bin/ray start --head --port 6379 --dashboard-host 127.0.0.1 --num-cpus 4

exec .venv/bin/ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
    "$PWD/.venv/bin/python" jobs/train.py "$@"
