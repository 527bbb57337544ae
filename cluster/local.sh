#!/usr/bin/env bash
# A Ray of three nodes without GPUs on this machine, and one job submitted to it; what follows goes to jobs/train.py:
#   cluster/local.sh world=$PWD/runs/demo-7/world run_dir=$PWD/runs/submitted
# The head takes the driver alone, as on a cluster. The nodes stay up for the next job; `.venv/bin/ray stop` ends them, and
# with them every other Ray of this user. Ends with the job's exit code. Needs `make .venv/.installed-cluster`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export RAY_AUTH_MODE=token # unset, it would depend on the file below, and on nodes that join it would be off
test -f ~/.ray/auth_token || (umask 077 && .venv/bin/ray get-auth-token --generate >/dev/null)

# 4 logical CPUs a worker whatever the machine has: with fewer in all, a resumed run waits for ever. The nodes share one
# address: each needs ports of its own, and one log monitor does for all.
echo "looking for a Ray on port 6379; three nodes are started where there is none" >&2
if ! .venv/bin/ray status --address 127.0.0.1:6379 >/dev/null 2>&1; then
    if (exec 3<>/dev/tcp/127.0.0.1/8265) 2>/dev/null; then
        echo "error: port 8265, the dashboard's, is taken, perhaps by another Ray, which would get the job; end it first" >&2
        exit 2
    fi
    .venv/bin/ray start --head --port 6379 --dashboard-host 127.0.0.1 --num-cpus 0 --num-gpus 0 \
        --object-store-memory 536870912
    for _ in 1 2; do
        .venv/bin/ray start --address 127.0.0.1:6379 --num-cpus 4 --num-gpus 0 --object-store-memory 536870912 \
            --min-worker-port 0 --max-worker-port 0 --dashboard-agent-listen-port 0 --include-log-monitor false
    done
fi

# Without --working-dir, as the nodes share this folder: they would share its copy too, and one of them removes it.
exec .venv/bin/python cluster/submit.py --address http://127.0.0.1:8265 -- \
    "$PWD/.venv/bin/python" "$PWD/jobs/train.py" "$@"
