#!/usr/bin/env bash
# Training on GPU nodes under Slurm: sbatch experiments/launch/slurm.sh [--config.x=y ...]
#
# From the checkout, with a virtual environment in .venv (requirements.txt, then -e ".[cuda]"). A job that ends
# with status 75 (told to stop, preempted, out of time, a host that stood still) is queued again and goes on.
# Variables: CONFIG, WORKDIR (on a file system that all nodes share), DRY_RUN=1 to print the command.
#SBATCH --job-name=muq_jax
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=muq_jax-%j.log
#SBATCH --signal=TERM@300
set -uo pipefail

CONFIG=${CONFIG:-experiments/configs/muq.py:large} WORKDIR=${WORKDIR:-runs/muq}

# Every process sees all GPUs of its node and takes the one of its place, which is how JAX reads Slurm.
# srun passes SIGTERM on to every process: 300 s before the end of the job's time, and when it is preempted.
train=(srun --kill-on-bad-exit=0 --gpu-bind=none .venv/bin/python -m experiments.train "--config=$CONFIG" "--workdir=$WORKDIR" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${train[@]}" && echo
  exit
fi
"${train[@]}"
status=$?
case "$status" in
  75 | 134 | 137 | 143) # interrupted; a process that crashed, was killed, or was told to stop while it started
    scontrol requeue "$SLURM_JOB_ID"
    ;;
esac
exit "$status"
