#!/usr/bin/env bash
# SGLang on one GPU, in under ten minutes and without a network: no speculation, its NGRAM, and ADED, trees of 12 rows.
#
#   benchmarks/gpu/sglang.sh MODEL PROMPTS FIGURES.jsonl
#
# MODEL is a folder or a hub id that is there already, PROMPTS a file of them (JSON lines or text). SGLang, its benchmark
# client and aded are those of $PYTHON. SGLang has no processor build, so there is no trial of it without a GPU.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,7p' "$0" >&2
    exit 2
fi
model=$1 prompts=$(realpath "$2") figures=$(realpath -m "$3")
python=$(realpath -s "$(command -v "${PYTHON:-python3}")")
cd "$(dirname "$0")/../.."
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$python" -c "import aded, sglang; print('SGLang', sglang.__version__, 'aded', aded.__version__)"
exec "$python" -m benchmarks.servers --engine sglang --model "$model" --prompts "$prompts" --record "$figures" \
    --concurrency 1,16,48 --requests 32 --max-new-tokens 128 --serve "--dtype bfloat16 --context-length 4096"
