#!/bin/sh
# Train GRPO from the SFT adapter with each length penalty of ALPHAS. Evaluate each on the test tasks; make a table and a plot.
cd "$(dirname "$0")"
. ./profile.sh

sft

for alpha in $ALPHAS; do
    grpo=$(checkpoint_name grpo "$alpha")
    stage "$grpo" "$SFT" python train_grpo_lora.py \
        --sft_model "$SFT" --train_path "$TRAIN" --output_dir "$grpo" --length_penalty_alpha "$alpha" $GRPO_FLAGS
    evaluate "grpo_alpha$alpha$run" "$grpo"
done

python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}"
