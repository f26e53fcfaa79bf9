#!/usr/bin/env bash
# What can be known of jaxbert on one NVIDIA GPU, in one call of under ten minutes, without a network.
#
#   scripts/gpu_check.sh                 # results under benchmarks/results/gpu/<the card's name>
#   scripts/gpu_check.sh DIRECTORY       # under DIRECTORY/<the card's name>
#
# It needs jax for CUDA, flax, optax, jaxtyping, orbax-checkpoint, torch and transformers, and for its
# last part pytest, hypothesis, chex and beartype; WHEELS=DIR installs the wheels of a folder first,
# for itself. PYTHON is the interpreter. Each part has a time limit: one that fails, or is not done
# by then, is told, and the next begun; parts.txt says what became of all, log.txt what they printed.
#
# DEVICE=cpu does the same with toy sizes on a CPU, with ten times the time; DRY_RUN=1 prints the
# commands and runs none.
set -uo pipefail

directory=$(realpath -m "${1:-$(dirname "$0")/../benchmarks/results/gpu}")
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-gpu}
seconds_in_all=${SECONDS_IN_ALL:-580}
slack=1

case $device in
  gpu)
    platforms=cuda,cpu
    works=(base-64x128 base-16x512 large-16x512)
    sides=jaxbert,torch-eager,torch-compiled,torch-flash
    rounds=5
    small=()
    tests=(tests/models tests/parity/test_models_torch.py tests/parity/test_training_torch.py)
    card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
    if [[ -z $card && -z ${DRY_RUN:-} ]]; then
      echo "no GPU: nvidia-smi names none; DEVICE=cpu tries the script out" >&2
      exit 2
    fi
    ;;
  cpu)
    platforms=cpu
    works=(smoke)
    sides=jaxbert,torch-eager
    rounds=2
    small=(--small)
    tests=(tests/models/test_golden.py)
    card=cpu
    # It is no matter how long a trial takes.
    slack=10
    seconds_in_all=${SECONDS_IN_ALL:-5800}
    ;;
  *)
    echo "DEVICE=$device: want gpu or cpu" >&2
    exit 2
    ;;
esac
name=$(tr -cs 'A-Za-z0-9\n' '-' <<<"${card:-no card}")
results=$directory/${name,,}

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export JAX_PLATFORMS=$platforms XLA_PYTHON_CLIENT_PREALLOCATE=false
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
failed=0

# part NAME SECONDS COMMAND...
part() {
  local name=$1 limit=$((slack * $2)) left status=0 began=$SECONDS verdict=done
  shift 2
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
    return
  fi
  left=$((seconds_in_all - SECONDS))
  if ((left < 1)); then
    verdict='no time left'
  else
    ((limit < left)) || limit=$left
    echo "== $name" | tee -a "$results/log.txt"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$results/log.txt" | tail -n 25
    status=${PIPESTATUS[0]}
    case $status in
      0) ;;
      124 | 137) verdict="stopped after $limit s" ;;
      *) verdict="failed with status $status" ;;
    esac
  fi
  [[ $verdict == done ]] || failed=1
  echo "$name: $verdict, $((SECONDS - began)) s" | tee -a "$results/parts.txt"
}

if [[ -z ${DRY_RUN:-} ]]; then
  mkdir -p "$results"
  echo "$card" >"$results/parts.txt"
  { [[ $device == cpu ]] || nvidia-smi; } >"$results/log.txt"
  if [[ -n ${WHEELS:-} ]]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$WHEELS"/*.whl || exit 2
    export PYTHONPATH=$PYTHONPATH:$site
  fi
fi

part checks 80 "$python" -m benchmarks.device_checks --results "$results" "${small[@]}"
part parity 70 "$python" -m benchmarks.parity --only BertForSequenceClassification \
  --results "$results"
for work in "${works[@]}"; do
  part "compare-$work" 105 "$python" -m benchmarks.compare --device "$device" --sides "$sides" \
    --only "$work-train-bfloat16" --rounds "$rounds" --results "$results"
done
# In a graph of CUDA's a kernel does not say which operation it is.
part profile 50 env XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=" \
  "$python" -m benchmarks.device_profile "${works[0]}-train-bfloat16" --device "$device" \
  --results "$results"
# Warnings are errors to the tests: those of other versions than the tests' own are not.
part tests 120 "$python" -m pytest -p no:cacheprovider -W default "${tests[@]}"
exit "$failed"
