#!/bin/sh
# Train PPO from the SFT adapter with each length penalty of ALPHAS and two batch sizes. Evaluate each on the test tasks.
cd "$(dirname "$0")"
. ./profile.sh

sft

for batch in 4 8; do
    [ "$batch" = 4 ] && suffix="" || suffix=_$batch
    for alpha in $ALPHAS; do
        ppo=$(checkpoint_name ppo "$alpha$suffix")
        stage "$ppo" "$SFT" python train_ppo_lora.py --sft_model "$SFT" --train_path "$TRAIN" --output_dir "$ppo" \
            --batch_size "$batch" --length_penalty_alpha "$alpha" $PPO_FLAGS
        evaluate "ppo_alpha$alpha$suffix$run" "$ppo"
    done
done

python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}"
