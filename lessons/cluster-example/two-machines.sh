#!/bin/bash
# Train on two machines that reach each other, without a scheduler. On each of them:
#     bash two-machines.sh RANK HOST:PORT [CONFIG [--key value ...]]
# RANK is 0 on one and 1 on the other; HOST:PORT is machine 0 and a free port there. Both need the
# same folder of runs (LABKIT_RUNS, shared by NFS say) and the same versions: labkit doctor.
set -euo pipefail
rank=${1:?0 on one machine, 1 on the other}
meet=${2:?HOST:PORT of machine 0}

exec torchrun \
    --nnodes=2 \
    --nproc-per-node="${NPROC:-gpu}" \
    --node-rank="$rank" \
    --master-addr="${meet%:*}" \
    --master-port="${meet##*:}" \
    --max-restarts=0 \
    -m labkit train --config "${3:-full}" --sharding fsdp2 "${@:4}"
