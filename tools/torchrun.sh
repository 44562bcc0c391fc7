#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: starts N processes of a tool on this node.
#   tools/torchrun.sh N TOOL.py [arguments of the tool]
set -eu
N=$1; TOOL=$2; shift 2
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$N" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    "$(dirname "$0")/$TOOL" --launcher pytorch "$@"
