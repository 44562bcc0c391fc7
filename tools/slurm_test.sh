#!/usr/bin/env bash
# Evaluate on a Slurm cluster, one task per GPU.
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [test.py flags]
# Environment: GPUS (8), GPUS_PER_NODE (8, or GPUS if less), CPUS_PER_TASK (5), SRUN_ARGS.
set -eu
if [ "$#" -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [test.py flags]" >&2
    exit 2
fi
PARTITION=$1; JOB_NAME=$2; CONFIG=$3; CHECKPOINT=$4; shift 4
exec "$(dirname "$0")/srun.sh" "$PARTITION" "$JOB_NAME" test.py "$CONFIG" "$CHECKPOINT" "$@"
