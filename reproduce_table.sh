#!/bin/sh
# The results table, all its rows: base, SFT, REINFORCE, PPO, GRPO and DPO with seeds 42, 1 and 2, then table and plots.
#   RESULTS=results/reproduced   where they go; the committed ones are results/published, and both are compared
#   SEEDS="42 1 2"               which seeds
#   SECTION=yours                where in the README the table goes; deepseek is the other profile's
# and what else profile.sh takes: PROFILE=deepseek is the same for DeepSeek-Coder-1.3B on HumanEval, on a GPU.
cd "$(dirname "$0")"
: "${RESULTS:=results/reproduced}" "${CHECKPOINTS:=checkpoints}" "${SEEDS:=42 1 2}"
export RESULTS CHECKPOINTS
. ./profile.sh

for SEED in $SEEDS; do
    export SEED
    for method in SFT_RL PPO GRPO DPO; do
        README='' sh "train_$method.sh"
    done
done

logs=$(cd "$RESULTS" && pwd)/train_logs.tar.gz
(cd "$CHECKPOINTS" && tar -czf "$logs" --exclude='*.partial' "$PREFIX"_lora_*/*_train_log.jsonl)
python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}" --section "${SECTION:-yours}" --plots \
    --reproduces "${COMMITTED-results/published}"
