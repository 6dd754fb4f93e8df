#!/usr/bin/env bash
# Everything that needs a GPU, most important first: bash benchmarks/gpu.sh [DATA_FOLDER] [RESULTS_FOLDER]
#
# DATA_FOLDER (data) holds airplane.npz, chair.npz and headwear.npz with the splits train and val; what is missing is
# skipped by name. A step takes less than nine minutes and leaves a mark in RESULTS_FOLDER (outputs/gpu) when it has
# succeeded; calling the script again goes on with the steps that have none. SECONDS_LEFT, if set, ends the script
# before a step that may not finish. Results are csv files, pictures, logs and run folders.
set -u
data=${1:-data}
out=${2:-outputs/gpu}
python=${PYTHON:-python}
limit=${SECONDS_LEFT:-86400}
mkdir -p "$out/done"
failed=0

step() { # step NAME LONGEST COMMAND...: run once, at most LONGEST seconds
    local name=$1 longest=$2
    shift 2
    [ -e "$out/done/$name" ] && return
    if [ $((SECONDS + longest)) -gt "$limit" ]; then
        echo "$name: left for the next call, it may take $longest s"
        return
    fi
    echo "$name: $*"
    timeout "$longest" "$@" >"$out/$name.log" 2>&1
    local status=$?
    if [ $status -eq 0 ]; then
        touch "$out/done/$name"
    else
        failed=1
        echo "$name: exit code $status (124: more than $longest s), see $out/$name.log"
        tail -n 5 "$out/$name.log"
    fi
}

train() { # train NAME CLOUDS: one 8-minute training of a category, pictures and scores of as many clouds as `val` has
    local name=$1 source=shapes
    local -a where=()
    if [ "$name" != shapes ]; then
        source=$data/$name.npz
        where=("dataset.path=$source")
        [ -e "$source" ] || { echo "$name: skipped, $source is missing" && return; }
    fi
    step "train-$name" 535 "$python" train.py "experiment=${name}_gpu" "${where[@]}" hydra.run.dir="$out/$name" \
        num_pictured=32 trainer.checkpoint_every=1000000
    [ -e "$out/done/train-$name" ] || return
    step "quality-$name" 400 "$python" benchmarks/quality.py "$out/$name/checkpoints/last" --data "$source" \
        --run "$name, 8 minutes on a GPU" --samplers dpm_solver langevin --num-clouds "$2" --output "$out/quality.csv" \
        --picture "$out/$name.png"
    [ "$name" = shapes ] && return
    step "scores-$name" 535 "$python" sample.py checkpoint="$out/$name/checkpoints/last" evaluate="$source" \
        num_clouds="$2" num_particles=2048 output="$out/$name/scored" # 1-NNA by earth mover's distance too
}

step kernel-tests 500 "$python" -m pytest -q tests/interaction/test_triton_cuda.py tests/test_gpu.py
step kernel-table 530 "$python" benchmarks/interaction.py --seconds 3 --memory 40 --output "$out/interaction.csv"
train airplane 100
train chair 140
train shapes 100
train headwear 40
step speed 400 "$python" benchmarks/end_to_end.py --checkpoint "$out/shapes/checkpoints/last" --network base \
    --train-sizes 2048 --sample-sizes 2048 16384 --output "$out/end_to_end.csv"
step speed-compiled 500 "$python" benchmarks/end_to_end.py --checkpoint "$out/shapes/checkpoints/last" --network base \
    --train-sizes --sample-sizes 2048 --compile --output "$out/end_to_end.csv"
step million 500 "$python" benchmarks/end_to_end.py --checkpoint "$out/shapes/checkpoints/last" --network base \
    --train-sizes --sample-sizes 1000000 --output "$out/million.csv"
exit $failed
