#!/usr/bin/env bash
# vLLM on one GPU, in under ten minutes and without a network: no speculation, n-gram, and ADED on both model runners;
# before it, what a step of drafting and learning takes there.
#
#   benchmarks/gpu/vllm.sh MODEL PROMPTS FIGURES.jsonl [--device cpu]
#
# MODEL is a folder or a hub id that is there already, PROMPTS a file of them (JSON lines or text). vLLM, its benchmark
# client and aded are those of $PYTHON. With `--device cpu` it is a trial of the script itself: a few short answers.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,10p' "$0" >&2
    exit 2
fi
model=$1 prompts=$(realpath "$2") figures=$(realpath -m "$3") device=gpu
if [ "${4:-}" = --device ]; then device=${5:-gpu}; fi
python=$(realpath -s "$(command -v "${PYTHON:-python3}")")
cd "$(dirname "$0")/../.."
if [ "$device" = cpu ]; then
    sizes="--methods none,aded --concurrency 1,2 --requests 2 --max-new-tokens 16"
    serve="--dtype float32 --max-model-len 1024 --enforce-eager --gpu-memory-utilization 0.3"
else
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    sizes="--methods none,ngram,aded,aded-v2 --concurrency 1,16,64 --requests 32 --max-new-tokens 128"
    serve="--dtype bfloat16 --max-model-len 4096"
fi
"$python" -c "import aded, vllm; print('vLLM', vllm.__version__, 'aded', aded.__version__)"
if [ "$device" != cpu ]; then
    "$python" -m benchmarks.device_drafts --requests 1,16,64,256
    "$python" -m pytest -q -m gpu tests/engines/device
fi
# shellcheck disable=SC2086
exec "$python" -m benchmarks.servers --model "$model" --prompts "$prompts" --record "$figures" $sizes --serve "$serve"
