#!/usr/bin/env bash
# Fine-tune on every host of a TPU slice; the hosts find each other by the slice's own metadata.
#
#   TPU=my-v5e-16 ZONE=us-west4-a scripts/tpu_pod.sh /mnt/shared/first \
#       --model bert-large-uncased --train /mnt/shared/train.csv
#   RESUME=1 TPU=... ZONE=... scripts/tpu_pod.sh /mnt/shared/first    # after a preemption
#
# The first argument is the run's directory, at the same place on every host and shared by them (a
# Filestore mount, say). DRY_RUN=1 prints the commands and does not run them.
set -euo pipefail

: "${TPU:?the name of the TPU}" "${ZONE:?its zone}"
output=${1:?usage: tpu_pod.sh OUTPUT [FLAGS OF jaxbert finetune]}
shift
on_all_hosts() {
  local remote=(gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1")
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "${remote[@]}"
    echo
  else
    "${remote[@]}"
  fi
}

flags=(--output "$output" --parallel mesh "$@")
if [[ -n ${RESUME:-} ]]; then
  flags=(--resume --output "$output")
fi
on_all_hosts "python3 -m pip install --quiet --user 'jaxbert[tpu]'"
on_all_hosts "\$HOME/.local/bin/jaxbert finetune --distributed $(printf '%q ' "${flags[@]}")"
