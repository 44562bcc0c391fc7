#!/usr/bin/env bash
# Train with N processes on this node, one per GPU (NCCL), or on the CPU (gloo) where there is none.
#   tools/dist_train.sh CONFIG N [train.py flags]
# Several nodes: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# A process that dies ends the job; with MAX_RESTARTS=1 and --resume it goes on from the newest
# checkpoint, once. On SIGTERM training saves and the status is 0, for --resume later.
set -eu
if [ "$#" -lt 2 ]; then
    echo "usage: $0 CONFIG N [train.py flags]" >&2
    exit 2
fi
CONFIG=$1; N=$2; shift 2
exec "$(dirname "$0")/torchrun.sh" "$N" train.py "$CONFIG" "$@"
