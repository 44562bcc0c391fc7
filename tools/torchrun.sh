#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: starts N processes of a tool on this node.
#   tools/torchrun.sh N TOOL.py [arguments of the tool]
#
# When a process dies, torchrun ends the others, at the latest after 30 seconds, and its last lines
# name the rank. With MAX_RESTARTS=1 it starts all of them again instead, at most once; train.py
# needs --resume for that.
#
# SIGTERM and SIGINT are for the processes: train.py saves its state and ends, and the status is 0,
# or 130 after SIGINT. torchrun itself would kill them after 30 seconds, and fail in any case; it
# gets a second signal.
set -eum # m: Ctrl-C in a terminal reaches this script only
N=$1; TOOL=$2; shift 2
"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$N" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --max_restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/$TOOL" --launcher pytorch "$@" &
TORCHRUN=$!
SENT=
hand_on() {
    if [ -n "$SENT" ] || ! pkill "-$1" -P "$TORCHRUN"; then
        kill "-$1" "$TORCHRUN"
    fi
    SENT=$1
    WAITING=1 # a signal ends `wait`
}
trap 'hand_on TERM' TERM
trap 'hand_on INT' INT
trap 'kill -HUP "$TORCHRUN"' HUP
WAITING=1
while [ -n "$WAITING" ]; do
    WAITING=
    STATUS=0
    wait "$TORCHRUN" || STATUS=$?
done
if [ "$SENT" = INT ] && [ "$STATUS" -eq 0 ]; then
    STATUS=130
fi
exit "$STATUS"
