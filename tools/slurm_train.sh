#!/usr/bin/env bash
# Train on a Slurm cluster, one task per GPU.
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py flags]
# Environment: GPUS (8), GPUS_PER_NODE (8, or GPUS if less), CPUS_PER_TASK (5), SRUN_ARGS.
# With SRUN_ARGS=--signal=TERM@300 training saves five minutes before the time limit and the status
# is 0; the same command with --resume goes on.
set -eu
if [ "$#" -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [train.py flags]" >&2
    exit 2
fi
PARTITION=$1; JOB_NAME=$2; CONFIG=$3; shift 3
exec "$(dirname "$0")/srun.sh" "$PARTITION" "$JOB_NAME" train.py "$CONFIG" "$@"
