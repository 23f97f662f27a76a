#!/bin/sh
# Reproduce all rows of the results table: base, SFT, REINFORCE, PPO, GRPO, DPO, RFT, and SFT on all solutions, with five
# seeds. Then make the table and the plots, and compare the results with the committed ones in results/published. Settings:
#   RESULTS=results/reproduced   the output folder
#   SEEDS="42 1 2 3 4"           which seeds
#   SECTION=yours                the README section that gets the table; use deepseek for the other profile
# and those of profile.sh. PROFILE=deepseek does the same for DeepSeek-Coder-1.3B on HumanEval, on a GPU.
cd "$(dirname "$0")"
: "${RESULTS:=results/reproduced}" "${CHECKPOINTS:=checkpoints}" "${SEEDS:=42 1 2 3 4}"
export RESULTS CHECKPOINTS
. ./profile.sh

for SEED in $SEEDS; do
    export SEED
    for method in SFT_RL PPO GRPO DPO RFT; do
        README='' sh "train_$method.sh"
    done
    ( # SFT on the solutions of all train tasks, where there are more than SFT had: an upper bound
        . ./profile.sh
        SFT_FLAGS="$SFT_FLAGS --num_train_epochs 2"
        [ "$SFT_TRAIN" = "$TRAIN" ] || supervised all_solutions "$CHECKPOINTS/${PREFIX}_lora_all_solutions$run" "$TRAIN"
    )
done

logs=$(cd "$RESULTS" && pwd)/train_logs.tar.gz
(cd "$CHECKPOINTS" && tar -czf "$logs" --exclude='*.partial' "$PREFIX"_lora_*/*_train_log.jsonl)
python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}" --section "${SECTION:-yours}" --plots \
    --reproduces "${COMMITTED-results/published}"
