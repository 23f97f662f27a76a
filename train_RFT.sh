#!/bin/sh
# Train RFT from the SFT adapter: sample, keep what passes, train on it, again. Evaluate on the test tasks; make a table
# and a plot.
cd "$(dirname "$0")"
. ./profile.sh

sft

rft=$CHECKPOINTS/${PREFIX}_lora_rft$run
stage "$rft" "$SFT" python train_rft_lora.py \
    --sft_model "$SFT" --train_path "$TRAIN" --output_dir "$rft" $RFT_FLAGS
evaluate "rft$run" "$rft"

python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}"
