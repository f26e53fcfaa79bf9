#!/usr/bin/env bash
# Fine-tune on GPUs of several machines under SLURM: a process for each GPU, which find each other
# by SLURM's own variables.
#
#   sbatch --nodes=2 scripts/slurm_gpus.sh runs/first --model bert-large-uncased --train train.csv
#
# The first argument is the run's directory, on a file system that all machines share. Two minutes
# before its time is over, and where the job is preempted, SIGTERM makes it save; the job is then
# queued again and goes on. DRY_RUN=1 prints the command and does not run it.
#
#SBATCH --job-name=jaxbert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

output=${1:?usage: sbatch slurm_gpus.sh OUTPUT [FLAGS OF jaxbert finetune]}
shift
# Asked once, here: the processes might find the file already there or not yet.
flags=(--output "$output" --parallel mesh "$@")
if [[ -f $output/finetune.json ]]; then
  flags=(--resume --output "$output")
fi
# One process that fails takes the rest with it; --label says whose line it is.
command=(srun --kill-on-bad-exit=1 --label jaxbert finetune --distributed "${flags[@]}")
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
status=0
"${command[@]}" || status=$?
if [[ $status -eq 143 ]]; then # saved on SIGTERM
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
