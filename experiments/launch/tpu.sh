#!/usr/bin/env bash
# Training on a slice of Cloud TPU VMs, from your own machine; README.md beside this file walks through it.
#
#   tpu.sh create | install | start | log | stop | keep | fetch | delete
#
# create   asks for the slice and waits until it is there
# install  puts this checkout and its packages on every host, and mounts the shared folder
# start    starts the run on every host; it goes on where the last one ended
# log      follows the first host's log
# stop     tells every host to save and stop
# keep     installs and starts until the run is done; a slice that was preempted is made again
# fetch    copies metrics and report here
# delete   gives the slice back
#
# It goes by these variables: NAME, ZONE, TYPE (v5litepod-64, v5p-256, ...), VERSION (the VMs' image, such as
# v2-alpha-tpuv5-lite), SHARE (an NFS server and path, such as 10.0.0.2:/share), CONFIG, WORKDIR (below
# /mnt/share), ARGS (such as --config.data.source=/mnt/share/corpus), SPOT=1 for spot chips, and DRY_RUN=1, which
# prints the commands instead of running them.
set -euo pipefail

usage() {
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exit 2
}
case "${1:-}" in create | install | start | log | stop | keep | fetch | delete) ;; *) usage ;; esac
cd "$(dirname "$0")/../.."

: "${NAME:?a name for the slice}" "${ZONE:?such as us-west4-a}"
TYPE=${TYPE:-v5litepod-64} VERSION=${VERSION:-v2-alpha-tpuv5-lite} SHARE=${SHARE:-}
CONFIG=${CONFIG:-experiments/configs/muq.py:large} WORKDIR=${WORKDIR:-/mnt/share/runs/$NAME} ARGS=${ARGS:-}

run() { if [ -n "${DRY_RUN:-}" ]; then printf '%q ' "$@" && echo; else "$@"; fi; }
queue() { run gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"; }
on() { run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"; }
copy() { run gcloud compute tpus tpu-vm scp --zone="$ZONE" "$@"; }

is_up() {
  [ -n "${DRY_RUN:-}" ] || [ "$(queue describe --format='value(state.state)')" = ACTIVE ]
}

create() {
  queue create --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$VERSION" ${SPOT:+--spot}
  until is_up; do sleep 60; done
}

install() {
  : "${SHARE:?the hosts need one folder in common, for checkpoints: an NFS share, such as 10.0.0.2:/share}"
  run git archive --output=/tmp/muq_jax.tar.gz HEAD
  copy --worker=all /tmp/muq_jax.tar.gz "$NAME:"
  on all "sudo apt-get install -y nfs-common && sudo mkdir -p /mnt/share &&
    { mountpoint -q /mnt/share || sudo mount $SHARE /mnt/share; } &&
    rm -rf muq_jax && mkdir muq_jax && tar -xzf muq_jax.tar.gz -C muq_jax && cd muq_jax &&
    python3 -m pip install uv && PATH=~/.local/bin:\$PATH && uv venv --python 3.12 .venv &&
    uv pip install -r requirements.txt -e '.[tpu]'" # the images' own Python is 3.10
}

start() {
  # What is left of a run that stood still would keep the chips.
  on all "pkill -KILL -f '[e]xperiments.train' || true"
  on 0 "mkdir -p $WORKDIR && rm -f $WORKDIR/status"
  # Every host adds its exit status on the share, where `keep` reads them; the shell outlives `stop`.
  on all "cd muq_jax && { nohup sh -c 'trap : TERM; .venv/bin/python -m experiments.train --multi_host --config=$CONFIG \
    --workdir=$WORKDIR $ARGS; echo \$? >> $WORKDIR/status' > train.log 2>&1 < /dev/null & }"
}

keep() {
  while true; do
    is_up || { queue delete --force --quiet && create; }
    install
    start
    [ -z "${DRY_RUN:-}" ] || return 0
    while is_up && ! on 0 "test -s $WORKDIR/status"; do sleep 60; done
    [ "$(on 0 "sort -nu $WORKDIR/status" || true)" = 0 ] || sleep 60 # the hosts do not end at once
    # Nothing: a slice that was taken away. 75: interrupted; the others: a host that crashed, was killed, or was
    # told to stop while it started.
    status=$(on 0 "sort -nu $WORKDIR/status" || true)
    case "$status" in 0) return 0 ;; *75* | *134* | *137* | *143* | "") ;; *) return 1 ;; esac
  done
}

case "$1" in
  log) on 0 "tail -n 100 -F muq_jax/train.log" ;;
  stop) on all "pkill -TERM -f '[e]xperiments.train'" ;;
  fetch)
    run mkdir -p "runs/$NAME"
    copy --worker=0 "$NAME:$WORKDIR/metrics.jsonl" "runs/$NAME"
    # A run in progress has no report yet, and a profile only if it was asked for.
    for folder in tensorboard report profile; do
      copy --worker=0 --recurse "$NAME:$WORKDIR/$folder" "runs/$NAME" || echo "no $folder yet"
    done
    ;;
  delete) queue delete --force --quiet ;;
  *) "$1" ;;
esac
