#!/bin/sh
# Compare the values of one choice on pocket. `sh ablations.sh QUESTION` trains each value with five seeds at 30,000
# sampled tokens and evaluates it on the validation tasks. It writes the table into docs/ablations.md and the picture
# into the results folder. The questions:
#   alpha      REINFORCE with length penalties 0, 0.01, 0.03, 0.1    ratio     PPO's ratio: of the sequence, of tokens
#   baseline   REINFORCE: no baseline, the batch mean, RLOO          critic    PPO on token ratios: without, with
#   grpo       the loss types, two passes over a batch               batch     PPO with 4 and 8 tasks per batch
#   rounds     DPO in one and in two rounds                          exit_code a grader that looks only at exit codes
#   selection  GRPO on 40 tasks: shuffled passes, without solved tasks, near one half (BUDGET=120000: 8 passes)
#   difficulty GRPO on all tasks, and on those that SFT solves now and then: 1 to 3 of 4 samples
#   turns      REINFORCE with one turn and with two; all are evaluated with two
# Settings: SEEDS="42 1 2 3 4", BUDGET=30000, PAGE=docs/ablations.md ("": no page); STEPS, LIMIT, FORCE as in profile.sh
set -eu
cd "$(dirname "$0")"
question=${1:-}
questions="alpha baseline ratio critic grpo batch rounds exit_code selection difficulty turns"
case " $questions " in
*" ${question:-?} "*) ;;
*) echo "error: give one of $questions" >&2 && exit 2 ;;
esac
PROFILE=pocket PREFIX=pocket RESULTS=${RESULTS:-results/ablations}/$question
: "${CHECKPOINTS:=checkpoints/ablations}" "${BUDGET:=30000}" "${SEEDS:=42 1 2 3 4}" "${TEST:=data/pocket_valid.jsonl}"

# variant METHOD NAME FLAGS...: train a variant from the SFT adapter and evaluate it.
variant() {
    method=$1 name=$2
    shift 2
    folder=$CHECKPOINTS/pocket_lora_${method}_$name$run
    stage "$folder" "$SFT" python "train_${method}_lora.py" --sft_model "$SFT" --train_path "$TRAIN" \
        --output_dir "$folder" "$@" --token_budget "$BUDGET" # last, so that it overrides the profile's budget
    evaluate "${method}_$name$run" "$folder"
}

# pairs MODEL SEED BUDGET NAME, then dpo MODEL NAME: run one round of DPO.
pairs() {
    stage "$CHECKPOINTS/pairs_$4$run.jsonl" "$1" python generate_dpo_data.py --sft_model "$1" --train_path "$TRAIN" \
        --output_path "$CHECKPOINTS/pairs_$4$run.jsonl" $DPO_DATA_FLAGS --token_budget "$3" --seed "$2"
}
dpo() {
    stage "$CHECKPOINTS/pocket_lora_dpo_$2$run" "$CHECKPOINTS/pairs_$2$run.jsonl" python train_dpo_lora.py \
        --sft_model "$1" --train_path "$CHECKPOINTS/pairs_$2$run.jsonl" \
        --output_dir "$CHECKPOINTS/pocket_lora_dpo_$2$run" $DPO_FLAGS
}

answer() {
    # a second turn reads the task twice and the first answer
    [ "$question" != turns ] || RL_FLAGS="$RL_FLAGS --max_length 768" EVAL_FLAGS="$EVAL_FLAGS --max_length 768 --turns 2"
    [ "$question" = exit_code ] || sft
    case $question in
    alpha) for alpha in 0 0.01 0.03 0.1; do variant rl "alpha$alpha" $RL_FLAGS --length_penalty_alpha $alpha; done ;;
    baseline)
        variant rl no_baseline $RL_FLAGS --baseline none
        variant rl mean $RL_FLAGS --baseline mean
        variant rl alpha0.01 $RL_FLAGS --length_penalty_alpha 0.01 # RLOO, as in `alpha`
        ;;
    ratio | critic | batch)
        [ "$question" = critic ] || variant ppo sequence $PPO_FLAGS --batch_size 4
        [ "$question" = batch ] || variant ppo token $PPO_FLAGS --batch_size 4 --ratio_level token
        if [ "$question" = critic ]; then
            critic_flags="$PPO_FLAGS --batch_size 4 --ratio_level token --value_coef 0.5"
            variant ppo critic $critic_flags
            variant ppo critic_lambda1 $critic_flags --gae_lambda 1
            variant ppo critic_warmup $critic_flags --critic_warmup 10
        fi
        [ "$question" != batch ] || variant ppo batch8 $PPO_FLAGS --batch_size 8
        ;;
    grpo)
        for loss in grpo dr_grpo dapo cispo; do # one range for all: cispo's own would end at 5, not at 1.2
            variant grpo $loss $GRPO_FLAGS --num_iterations 2 --loss_type $loss --clip_range_high 0.2
        done
        variant grpo gspo $GRPO_FLAGS --num_iterations 2 --loss_type gspo --clip_range 3e-4 --clip_range_high 4e-4
        ;;
    rounds)
        pairs "$SFT" "$SEED" "$BUDGET" one
        dpo "$SFT" one
        pairs "$SFT" "$SEED" $((BUDGET / 2)) first
        dpo "$SFT" first
        half=$CHECKPOINTS/pocket_lora_dpo_first$run
        pairs "$half" $((SEED + 1000)) $((BUDGET / 2)) two
        dpo "$half" two
        for rounds in one two; do evaluate "dpo_$rounds$run" "$CHECKPOINTS/pocket_lora_dpo_$rounds$run"; done
        ;;
    selection) # few tasks, or none is drawn twice
        TRAIN=$CHECKPOINTS/selection_train.jsonl
        head -n 40 data/pocket_train.jsonl > "$TRAIN"
        for choice in off solved half; do
            variant grpo "selection_$choice" $GRPO_FLAGS --prompt_selection $choice \
                --curve_path "$TEST" --curve_every 4000 --curve_samples 2
        done
        ;;
    difficulty)
        rated=$CHECKPOINTS/difficulty_rated$run.jsonl
        stage "$rated" "$SFT" python task_difficulty.py --sft_model "$SFT" --train_path "$TRAIN" \
            --output_path "$rated" $length_flags --num_samples 4 --seed "$SEED"
        TRAIN=$rated
        variant grpo difficulty_all $GRPO_FLAGS
        variant grpo difficulty_between $GRPO_FLAGS --min_pass 0.2 --max_pass 0.8
        ;;
    turns)
        variant rl one_turn $RL_FLAGS
        variant rl two_turns $RL_FLAGS --turns 2
        EVAL_FLAGS="$EVAL_FLAGS --feedback kind"
        variant rl two_turns_kind $RL_FLAGS --turns 2 --feedback kind
        ;;
    exit_code)
        ALSO=docs/exit_code_reward.py # part of the code of these stages
        habit=$CHECKPOINTS/exit_train.jsonl SFT=$CHECKPOINTS/pocket_lora_sft_exit$run
        [ -f "$habit" ] || python data/make_exit_tasks.py "$habit" 0.5
        stage "$SFT" "$habit" python train_sft_lora.py --model_name "$MODEL" --train_path "$habit" --output_dir "$SFT" \
            $SFT_FLAGS --learning_rate 1e-3 --num_train_epochs 4
        evaluate "sft_exit$run" "$SFT"
        variant rl by_exit_code $RL_FLAGS --reward docs/exit_code_reward.py:exit_code
        variant rl by_sandbox $RL_FLAGS --length_penalty_alpha 0
        ;;
    esac
}

for SEED in $SEEDS; do (
    . ./profile.sh
    answer
); done

. ./profile.sh
python results_table.py --results_dir "$RESULTS" --readme "${PAGE-docs/ablations.md}" --section "$question" --plots
