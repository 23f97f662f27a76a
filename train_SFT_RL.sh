#!/bin/sh
# Train SFT, and REINFORCE with each length penalty of ALPHAS. Evaluate these and the base model on the test tasks; make
# a table and a plot.
cd "$(dirname "$0")"
. ./profile.sh

evaluate base "$MODEL"

sft

for alpha in $ALPHAS; do
    rl=$(checkpoint_name rl "$alpha")
    stage "$rl" "$SFT" python train_rl_lora.py \
        --sft_model "$SFT" --train_path "$TRAIN" --output_dir "$rl" --length_penalty_alpha "$alpha" $RL_FLAGS
    evaluate "rl_alpha$alpha$run" "$rl"
done

python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}"
