#!/usr/bin/env bash
# Fine-tune on all GPUs of this machine, in one process; run again, it goes on where it stopped.
#
#   scripts/gpu_node.sh runs/first --model bert-base-uncased --train train.csv --eval dev.csv
#
# The first argument is the run's directory, the rest goes to `jaxbert finetune`. --batch-size is
# that of all GPUs together. DRY_RUN=1 prints the command and does not run it.
set -euo pipefail

output=${1:?usage: gpu_node.sh OUTPUT [FLAGS OF jaxbert finetune]}
shift
command=(jaxbert finetune --output "$output" --parallel mesh "$@")
if [[ -f $output/finetune.json ]]; then
  command=(jaxbert finetune --resume --output "$output")
fi
# Most of the memory from the start, and none of it in small pieces.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
exec "${command[@]}"
