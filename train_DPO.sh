#!/bin/sh
# SFT, preference pairs from its own samples, and DPO on them, evaluated on the test tasks: a table and a plot.
cd "$(dirname "$0")"
. ./profile.sh

sft

pairs=$CHECKPOINTS/${PREFIX}_dpo_pairs$run.jsonl
stage "$pairs" "$SFT" python generate_dpo_data.py \
    --sft_model "$SFT" --train_path "$TRAIN" --output_path "$pairs" $DPO_DATA_FLAGS

dpo=$CHECKPOINTS/${PREFIX}_lora_dpo$run
stage "$dpo" "$pairs" python train_dpo_lora.py --sft_model "$SFT" --train_path "$pairs" --output_dir "$dpo" $DPO_FLAGS
evaluate "dpo$run" "$dpo"

python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}"
