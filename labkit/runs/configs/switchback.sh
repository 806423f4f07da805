#!/bin/sh
# Fine-tune with or without SwitchBack several times, then score each run: what the script.sh of the
# project did from which this course grew, with its variables and their names.
#
#     MODEL_NAME_OR_PATH=/models/tinyllama-1.1b FT_DATASET=oasst1:/data/oasst1 BS=64 \
#         USE_SWICHBACK=true NUM_FTUNES=10 OUTPUT_MODEL_NAME=oasst1-int8 sh switchback.sh
#
# Run it with USE_SWICHBACK=false and =true, each below a folder of its own (LABKIT_RUNS=linear,
# LABKIT_RUNS=int8), and for several data sets, then compare: alternate them where times count.
#
#     labkit stats linear int8
#     labkit stats oasst1/linear oasst1/int8 longform/linear longform/int8 ru/linear ru/int8
#
# What follows the script's name goes to `labkit train`, such as --weight-decay 0.1.
set -eu

MODEL_NAME_OR_PATH=${MODEL_NAME_OR_PATH:-smollm2-135m-instruct}
FT_DATASET=${FT_DATASET:-instructions}          # NAME, NAME:PATH, or a file or folder
OUTPUT_MODEL_NAME=${OUTPUT_MODEL_NAME:-switchback}
USE_SWICHBACK=${USE_SWICHBACK:-true}            # true or false; spelt as it was
NUM_FTUNES=${NUM_FTUNES:-10}                    # runs, with seeds one apart
BS=${BS:-8}                                     # sequences in a step on one device
GRAD_ACC=${GRAD_ACC:-1}
LR=${LR:-5e-5}
NUM_EPOCHS=${NUM_EPOCHS:-1}
MAX_STEPS=${MAX_STEPS:--1}                      # -1: so many epochs instead
MAX_LENGTH=${MAX_LENGTH:-512}
SEED=${SEED:-42}
EVAL_TASKS=${EVAL_TASKS:-hellaswag,boolq,swag,winogrande,xwinograd_en}   # none: leave it out

labkit train --config full --task sft \
    --model "$MODEL_NAME_OR_PATH" --data "$FT_DATASET" --name "$OUTPUT_MODEL_NAME" \
    --use-switchback "$USE_SWICHBACK" --repeat "$NUM_FTUNES" --seed "$SEED" \
    --per-device-train-batch-size "$BS" --gradient-accumulation-steps "$GRAD_ACC" \
    --learning-rate "$LR" --num-train-epochs "$NUM_EPOCHS" --max-steps "$MAX_STEPS" \
    --max-length "$MAX_LENGTH" "$@"

[ "$EVAL_TASKS" = none ] && exit 0
labkit eval "$MODEL_NAME_OR_PATH" --task "$EVAL_TASKS"
number=0
while [ "$number" -lt "$NUM_FTUNES" ]; do
    run=$OUTPUT_MODEL_NAME
    [ "$NUM_FTUNES" -gt 1 ] && run=$OUTPUT_MODEL_NAME-seed$((SEED + number))
    labkit eval "$run" --task "$EVAL_TASKS"
    number=$((number + 1))
done
