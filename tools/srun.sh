#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh share: one task of a tool per GPU, on as many nodes as needed.
#   tools/srun.sh PARTITION JOB_NAME TOOL.py [arguments of the tool]
# A task that dies ends the others (--kill-on-bad-exit), and srun names it: task N is rank N.
set -eu
PARTITION=$1; JOB_NAME=$2; TOOL=$3; shift 3
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
# SRUN_ARGS is split into words: it holds several arguments.
# shellcheck disable=SC2086
exec srun \
    --partition="$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/$TOOL" --launcher slurm "$@"
