#!/usr/bin/env bash
# Evaluate with N processes on this node, one per GPU (NCCL), or on the CPU (gloo).
#   tools/dist_test.sh CONFIG CHECKPOINT N [test.py flags]
# Several nodes: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -eu
if [ "$#" -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT N [test.py flags]" >&2
    exit 2
fi
CONFIG=$1; CHECKPOINT=$2; N=$3; shift 3
exec "$(dirname "$0")/torchrun.sh" "$N" test.py "$CONFIG" "$CHECKPOINT" "$@"
