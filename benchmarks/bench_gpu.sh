#!/bin/bash
# Everything about speed on one GPU, in calls of less than 9 minutes; call it again until it says that nothing is left.
#
#     benchmarks/bench_gpu.sh [output.jsonl] [seconds of this call]
#
# Needs a python3 (or $PYTHON) with torch for CUDA, e3nn, numpy, scipy and safetensors, and torch-geometric for the
# baselines of SchNet and DimeNet++ (without it they have none); for compiled steps also triton. Neither RDKit nor an
# installation of this package is needed. A case that is in the output already is not measured again, and one that was
# begun twice without an end is left out.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
output=${1:-$root/results/bench_gpu.jsonl}
budget=${2:-500}
python=${PYTHON:-python3}
export PYTHONPATH=$root/workflow/src${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
# Compiled kernels of an earlier call are found again where the output is kept.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$(dirname "$output")/inductor_cache}
mkdir -p "$(dirname "$output")"
end=$(($(date +%s) + budget))

"$python" - <<'PROGRAM' || exit 2
import importlib
import sys

missing = []
for name in ("torch", "numpy", "scipy", "e3nn", "safetensors"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing.append(f"{name} ({error})")
if missing:
    sys.exit("bench_gpu.sh: missing packages: " + ", ".join(missing) + "; install them or put them on PYTHONPATH")
import torch

if not torch.cuda.is_available():
    sys.exit("bench_gpu.sh: torch sees no GPU")
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
PROGRAM

# The most telling measurements first, compilation (up to a minute per case) last.
phase() {
    local left=$((end - $(date +%s)))
    if [ "$left" -lt 20 ]; then return; fi
    "$python" "$root/benchmarks/bench_models.py" --output "$output" --device cuda --threads "$OMP_NUM_THREADS" \
        --quiet --seconds 1 --total-seconds $((left - 10)) "$@"
}
cd "$root/benchmarks" || exit 2
phase --tasks train --batch 32 --modes baseline eager captured
phase --tasks single sixty index --modes baseline eager captured
phase --tasks train --batch 512 128 --modes baseline captured
phase --models so3krates schnet gemnet_t egnn --tasks train single --batch 32 --modes compiled
phase --tasks train --batch 512 128 --modes eager
phase --models se3_transformer dimenet_plus_plus gemnet_q --tasks train single --batch 32 --modes compiled
phase --tasks train sixty --batch 512 128 --modes compiled
"$python" bench_models.py --output "$output" --render
if [ "$(date +%s)" -lt "$((end - 20))" ]; then
    echo "nothing is left to measure"
else
    echo "time is up; call again to go on"
fi
