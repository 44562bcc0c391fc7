#!/usr/bin/env bash
# Train with N processes on this node, one per GPU (NCCL), or on the CPU (gloo) where there is none.
#   tools/dist_train.sh CONFIG N [train.py flags]
# Several nodes: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -eu
if [ "$#" -lt 2 ]; then
    echo "usage: $0 CONFIG N [train.py flags]" >&2
    exit 2
fi
CONFIG=$1; N=$2; shift 2
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$N" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
