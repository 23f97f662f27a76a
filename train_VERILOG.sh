#!/bin/sh
# Verilog: train SFT, PPO with a critic, and GRPO, with the parts of docs/verilog.md as the reward. Make a table and
# learning curves.
# JUDGE_URL= JUDGE_MODEL=   a judge model behind an OpenAI-compatible server; it adds the part `reasoning`
cd "$(dirname "$0")"
TASKS=verilog
. ./profile.sh
python verilog.py --probe > /dev/null || { python verilog.py --probe >&2 && exit 2; }

judge=${JUDGE_URL:+--judge_url $JUDGE_URL --judge_model ${JUDGE_MODEL:?names the judge model at JUDGE_URL}}
EVAL_FLAGS="$EVAL_FLAGS $judge"
RL="--sft_model $SFT --train_path $TRAIN --reward parts --prompt_level curriculum $judge"

evaluate base "$MODEL"

sft

ppo=$CHECKPOINTS/${PREFIX}_lora_ppo$run
stage "$ppo" "$SFT" python train_ppo_lora.py --output_dir "$ppo" $RL \
    --ratio_level token --value_coef 0.5 --entropy_coef 0.01 --max_grad_norm 0.5 --clip_range 0.2 $PPO_FLAGS
evaluate "ppo$run" "$ppo"

grpo=$CHECKPOINTS/${PREFIX}_lora_grpo$run
stage "$grpo" "$SFT" python train_grpo_lora.py --output_dir "$grpo" $RL $GRPO_FLAGS
evaluate "grpo$run" "$grpo"

python results_table.py --results_dir "$RESULTS" --readme "${README-README.md}"
python curves.py "$CHECKPOINTS/${PREFIX}_lora_ppo"* "$CHECKPOINTS/${PREFIX}_lora_grpo"* \
    --figures reward compilation functional reasoning --output "$RESULTS/${PREFIX}_curves.png"
