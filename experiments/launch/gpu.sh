#!/usr/bin/env bash
# Training on one machine with one or more GPUs: experiments/launch/gpu.sh [--config.x=y ...]
#
# Starts the run again while it ends with status 75 on its own (a process that stood still); Ctrl-C or SIGTERM
# saves and ends it. Variables: CONFIG, WORKDIR, PYTHON, DRY_RUN=1 to print the command.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

CONFIG=${CONFIG:-experiments/configs/muq.py:base} WORKDIR=${WORKDIR:-runs/muq} PYTHON=${PYTHON:-python}
INTERRUPTED=75

train=("$PYTHON" -m experiments.train "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${train[@]}" && echo
  exit
fi
told=
trap 'told=1; kill -TERM "$pid"' INT TERM
while true; do
  "${train[@]}" &
  pid=$!
  wait "$pid"
  status=$?
  if [ -n "$told" ]; then # a signal ends the first wait, not the run
    wait "$pid"
    exit $?
  fi
  [ "$status" -eq "$INTERRUPTED" ] || exit "$status"
done
