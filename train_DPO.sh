#!/bin/sh
# Run SFT, make preference pairs from its samples, and train DPO on them. Evaluate on the test tasks; make a table and a
# plot. With ROUNDS=2, the second round samples from the first round's adapter, which is then also start and reference.
# The rounds share the token budget.
cd "$(dirname "$0")"
: "${ROUNDS:=1}"
. ./profile.sh

sft

[ "$ROUNDS" = 1 ] && name=dpo || name=dpo_rounds$ROUNDS
model=$SFT round=1
while [ "$round" -le "$ROUNDS" ]; do
    [ "$round" = "$ROUNDS" ] && step=$name || step=${name}_round$round
    pairs=$CHECKPOINTS/${PREFIX}_${step}_pairs$run.jsonl
    dpo=$CHECKPOINTS/${PREFIX}_lora_$step$run
    stage "$pairs" "$model" python generate_dpo_data.py --sft_model "$model" --train_path "$TRAIN" \
        --output_path "$pairs" $DPO_DATA_FLAGS --seed $((SEED + 1000 * (round - 1)))
    stage "$dpo" "$pairs" python train_dpo_lora.py \
        --sft_model "$model" --train_path "$pairs" --output_dir "$dpo" $DPO_FLAGS
    model=$dpo round=$((round + 1))
done
evaluate "$name$run" "$model"

python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}"
