#!/usr/bin/env bash
# transformers on one GPU, in under ten minutes and without a network: plain decoding, ours with and without drafts, its prompt
# lookup and its assistant, in float16 and bfloat16, eager and compiled; and step times of 1, 8 and 32 billion weights.
#
#   benchmarks/gpu/transformers.sh PROMPTS FIGURES.json [MODEL [ASSISTANT]] [--device cpu]
#
# PROMPTS is a file of them (JSON lines or text), MODEL a folder, GGUF file or hub id that is there already; without it the
# embedded SmolLM2-135M-Instruct. torch, transformers and aded are those of $PYTHON. With `--device cpu` it is a trial of the
# script itself: a short answer, and steps of a tiny model.
set -euo pipefail
models=() device=cuda
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:-} && shift 2 ;;
        *) models+=("$1") && shift ;;
    esac
done
if [ ${#models[@]} -lt 2 ]; then
    sed -n '2,9p' "$0" >&2
    exit 2
fi
prompts=$(realpath "${models[0]}") figures=$(realpath -m "${models[1]}")
python=$(realpath -s "$(command -v "${PYTHON:-python3}")")
cd "$(dirname "$0")/../.."
given=(--prompts "$prompts" --device "$device")
[ ${#models[@]} -lt 3 ] || given+=(--model "${models[2]}")
[ ${#models[@]} -lt 4 ] || given+=(--assistant "${models[3]}")
if [ "$device" = cpu ]; then
    given+=(--sizes tiny --limit 1 --max-new-tokens 16 --dtypes bfloat16 --eager-only)
else
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi
"$python" -m benchmarks.device "$figures" "${given[@]}"
if [ "$device" != cpu ]; then
    "$python" -m pytest -q -m gpu tests
fi
