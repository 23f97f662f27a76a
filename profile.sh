# Every train_*.sh sources this file. It sets up the environment, the profile and the data, and defines the functions
# `stage`, `evaluate` and `sft`. Settings:
#
#   PROFILE=pocket|smol|qwen|deepseek  what to run; the default is deepseek if there is a CUDA GPU, else pocket
#   DATASET=mbpp|humaneval    the tasks of smol and qwen
#   MODEL= TRAIN= TEST=       another model (a name on the hub, a folder or a GGUF file), other task files
#   SFT_TRAIN=FILE            the tasks whose solutions SFT learns from: TRAIN's, on pocket 40 of them
#   ALPHAS="0.01 0.03"        length penalties of REINFORCE, PPO and GRPO, a run each; pocket: 0.01
#   SOURCE=FILE               read HumanEval or MBPP from this file, not from the hub
#   PREFIX=mine               name checkpoints and results by this, so that they do not replace the profile's own
#   TASKS=verilog             use the profile's Verilog tasks (train_VERILOG.sh)
#   SEED=1                    another seed; its checkpoints and results end in _seed1
#   FORCE=1                   redo stages that are complete
#   RESULTS= CHECKPOINTS=     other output folders
#   ROUNDS=2                  train_DPO.sh samples, makes pairs and trains twice
#   NEW_TOKENS=768            most tokens of an answer (deepseek with TASKS=verilog)
#   STEPS=2 LIMIT=4           a short run: updates per stage; tasks per evaluation and for DPO's pairs
#   ORIGINAL=1                deepseek: what the original system ran, where our defaults differ
#   TUNED=1                   deepseek: rates and sample counts that LoRA learns at, and a token budget
#   RL_FLAGS="--top_p 0.9"    more flags for REINFORCE, after the profile's, so that they win; also SFT_FLAGS,
#                             PPO_FLAGS, GRPO_FLAGS, DPO_DATA_FLAGS, DPO_FLAGS, RFT_FLAGS, EVAL_FLAGS
set -eu
# MY_RL_FLAGS and so on keep what the user gave: a script that another one starts sources this file again, and there
# RL_FLAGS has been made already.
for name in SFT RL PPO GRPO DPO_DATA DPO RFT EVAL; do
    eval ": \"\${MY_${name}_FLAGS=\${${name}_FLAGS:-}}\"; export MY_${name}_FLAGS; ${name}_FLAGS="
done
export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

# .venv holds a copy of each file that was installed into it. run_tests.sh lists a second file.
for file in ${REQUIREMENTS:-requirements.txt}; do
    cmp -s "$file" ".venv/$file" && continue
    echo "installing $file into .venv (a few minutes, log in .venv/install.log)"
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install -q -r "$file" > .venv/install.log 2>&1 || {
        tail -n 5 .venv/install.log >&2
        exit 1
    }
    cp "$file" .venv/
done
PATH=$PWD/.venv/bin:$PATH

# pick: set PROFILE and `why` for this machine. A GPU that the installed torch cannot use is an error. Otherwise the run
# would train the small model on the CPU and say that there is no GPU.
pick() {
    found=$(python -W ignore - << 'EOF'
import re
import torch

if torch.cuda.is_available():
    print("usable")
else:
    try:
        reason = torch.cuda.init() or "it does not say why"
    except Exception as error:
        reason = re.split(r"\. (?=[A-Z])|\n", str(error))[0]  # the first sentence; what follows is advice
    print(torch.__version__, torch.version.cuda or "none", reason)
EOF
    )
    if [ "$found" = usable ]; then
        PROFILE=deepseek why="a CUDA GPU is here"
        return
    fi
    PROFILE=pocket why="no CUDA GPU here"
    cards=$(nvidia-smi -L 2> /dev/null) || return 0 # no driver
    case $cards in "GPU "*) ;; *) return 0 ;; esac
    case ${CUDA_VISIBLE_DEVICES-all} in "" | -1 | -1,*) why="CUDA_VISIBLE_DEVICES hides the GPU" && return ;; esac
    refuse "${cards%% (UUID*}" "$found"
}

# refuse GPU "TORCH CUDA REASON": stop, and say which driver or which build of torch is needed.
refuse() {
    drivers=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null) || drivers=""
    driver=${drivers%%[!0-9.]*} # there is one line per GPU: take the first
    major=${driver%%.*}
    : "${major:=999}" # unknown: assume that it is new enough
    torch=${2%% *} rest=${2#* }
    cuda=${rest%% *} reason=${rest#* }
    [ "$cuda" = none ] && built="a CPU build" || built="for CUDA $cuda"
    case $cuda in 13.*) least=580 ;; *) least=525 ;; esac # NVIDIA's minor version compatibility
    build=cu130 but="cu126 for cards older than Turing"
    [ "$major" -ge 580 ] || build=cu126 but="not for Blackwell cards"
    pip="\`.venv/bin/pip install torch==${torch%%+*}+$build --index-url https://download.pytorch.org/whl/$build\`"

    if [ "$major" -lt 525 ]; then
        way="update the driver to $least or newer" # there is no build for this driver
        [ "$cuda" != none ] || way="$way and install a CUDA build"
    elif [ "$major" -lt "$least" ]; then
        way="update the driver to $least or newer, or install an older build: $pip ($but)"
    elif [ "$cuda" = none ]; then
        way="install a CUDA build: $pip ($but)"
    else
        way="mend that${CUDA_VISIBLE_DEVICES:+ (CUDA_VISIBLE_DEVICES is $CUDA_VISIBLE_DEVICES)}"
    fi
    echo "error: $1, driver ${driver:-unknown}: torch $torch ($built) cannot use it: $reason; $way," \
        "or set PROFILE=pocket to run on the CPU all the same (docs/hardware.md)" >&2
    exit 2
}

if [ -z "${PROFILE:-}" ]; then
    pick
fi
case ${ORIGINAL:-0}${TUNED:-0} in
00) variant="" ;;
10) variant=_original ;;
01) variant=_tuned ;;
*) echo "error: ORIGINAL=${ORIGINAL:-0} TUNED=${TUNED:-0}: set one of them to 1, not both" >&2 && exit 2 ;;
esac
if [ -n "$variant" ] && [ "$PROFILE${TASKS:+_$TASKS}" != deepseek ]; then
    echo "error: ORIGINAL and TUNED are for PROFILE=deepseek without TASKS, not for $PROFILE${TASKS:+ TASKS=$TASKS}" >&2
    exit 2
fi
echo "profile: $PROFILE$variant${why:+ (picked: $why)}"

need() { # MAKER FILE...: make files that ship with the repository, if one is missing
    maker=$1
    shift
    for file in "$@"; do [ -e "$file" ] || python "data/$maker"; done
}

# fetch: ask the hub for the model before anything is done, and make the tasks that come from the hub, if they are missing.
fetch() {
    [ -e "$MODEL" ] || python -W ignore - "$MODEL" << 'EOF'
import sys
from common import answer_for
from model.load import base_and_adapter, check_reachable

answer_for(lambda: check_reachable(base_and_adapter(sys.argv[1])[0]))
EOF
    for file in "$TRAIN" "$TEST"; do
        case $file in
        data/humaneval_*) maker=prepare_humaneval.py ;; data/mbpp_*) maker=prepare_mbpp.py ;; *) continue ;;
        esac
        [ -f "$file" ] || python "data/$maker" ${SOURCE:+--source "$SOURCE"}
    done
}

# real_model_flags TOKENS: flags for smol, qwen and tuned deepseek. LoRA wants about ten times the rates of full tuning.
real_model_flags() {
    budget="--token_budget $1" # sampled tokens: the same for every method
    RL_FLAGS="$length_flags $passes $budget --num_steps 1000 --batch_size 4 --num_samples 8 --baseline rloo"
    RL_FLAGS="$RL_FLAGS --learning_rate 1e-4"
    PPO_FLAGS="$length_flags $passes $budget --num_updates 1000 --num_samples 8 --learning_rate 1e-4"
    GRPO_FLAGS="$length_flags $passes $budget --num_steps 1000 --batch_size 4 --num_samples 8 --learning_rate 1e-4"
    DPO_DATA_FLAGS="$length_flags --token_budget $(($1 / ${ROUNDS:-1})) --num_samples 8 --rejected random"
    DPO_FLAGS="--learning_rate 5e-5 $passes"
    RFT_FLAGS="$length_flags $passes $budget --num_steps 1000 --batch_size 4 --num_samples 8 --learning_rate 1e-4"
}

case $PROFILE${TASKS:+_$TASKS} in
pocket)
    : "${PREFIX:=${MODEL:+$(basename "$MODEL" .gguf)}}" "${PREFIX:=pocket}"
    : "${SFT_TRAIN:=${TRAIN:-data/pocket_sft.jsonl}}"
    : "${MODEL:=data/pocket_coder}" "${TRAIN:=data/pocket_train.jsonl}" "${TEST:=data/pocket_test.jsonl}"
    SFT=${PREFIX}_lora_sft
    length_flags="--max_length 384 --max_new_tokens 128"
    SFT_FLAGS="--max_length 384 --learning_rate 1e-3 --num_train_epochs 6"
    : "${ALPHAS:=0.01}" # completions are short here: a larger penalty changes nothing
    budget="--token_budget 60000" # sampled tokens: the same for every method
    passes="$budget --curve_path data/pocket_valid.jsonl ${LIMIT:+--curve_tasks $LIMIT}"
    RL_FLAGS="$length_flags $passes --num_steps 1000 --batch_size 4 --num_samples 4 --baseline rloo --learning_rate 1e-3"
    PPO_FLAGS="$length_flags $passes --num_updates 1000 --num_samples 4 --learning_rate 5e-4"
    GRPO_FLAGS="$length_flags $passes --num_steps 1000 --batch_size 2 --learning_rate 1e-3"
    DPO_DATA_FLAGS="$length_flags --token_budget $((60000 / ${ROUNDS:-1})) --num_samples 4 --rejected random --batch_size 32"
    DPO_FLAGS="--learning_rate 5e-4 --beta 0.2"
    RFT_FLAGS="$length_flags $passes --num_steps 1000 --num_samples 4 --num_epochs 2 --minibatch_size 4"
    RFT_FLAGS="$RFT_FLAGS --learning_rate 1e-3"
    EVAL_FLAGS="$length_flags --batch_size 128"
    need make_pocket_tasks.py data/pocket_train.jsonl data/pocket_sft.jsonl data/pocket_test.jsonl
    need make_pocket_coder.py data/pocket_coder
    ;;
pocket_verilog)
    : "${PREFIX:=${MODEL:+$(basename "$MODEL" .gguf)}}" "${PREFIX:=pocket_verilog}" "${MODEL:=data/pocket_verilog_coder}"
    : "${TRAIN:=data/pocket_verilog_train.jsonl}" "${TEST:=data/pocket_verilog_test.jsonl}"
    SFT=${PREFIX}_lora_sft
    length_flags="--max_length 384 --max_new_tokens 128"
    budget="--token_budget 80000" # sampled tokens: the same for every method
    valid="--valid_path data/pocket_verilog_valid.jsonl" # keep the adapter that passes most of these
    SFT_FLAGS="--max_length 384 --prompt_level all"
    PPO_FLAGS="$length_flags $budget $valid --num_updates 1000 --batch_size 8 --num_samples 4 --learning_rate 3e-4"
    PPO_FLAGS="$PPO_FLAGS --gae_lambda 1 --curriculum_epochs 0.35"
    GRPO_FLAGS="$length_flags $budget $valid --num_steps 1000 --batch_size 4 --num_iterations 4 --learning_rate 3e-4"
    GRPO_FLAGS="$GRPO_FLAGS --loss_type dr_grpo --curriculum_epochs 0.17" # half of PPO's: a task has twice the samples
    EVAL_FLAGS="$length_flags --batch_size 128"
    need make_pocket_verilog_tasks.py data/pocket_verilog_train.jsonl data/pocket_verilog_test.jsonl
    need make_pocket_verilog_coder.py data/pocket_verilog_coder
    ;;
deepseek_verilog) # LoRA r 16, alpha 32, dropout 0.1, as in the original
    : "${PREFIX:=${MODEL:+$(basename "$MODEL" .gguf)}}" "${PREFIX:=deepseek_7b_verilog}"
    : "${MODEL:=deepseek-ai/deepseek-coder-7b-instruct-v1.5}"
    : "${TRAIN:=data/verilog_train.jsonl}" "${TEST:=data/verilog_test.jsonl}"
    SFT=${PREFIX}_lora_sft
    : "${NEW_TOKENS:=768}"
    length_flags="--max_length $((768 + NEW_TOKENS)) --max_new_tokens $NEW_TOKENS --instruct"
    rl_flags="$length_flags --gradient_checkpointing --no_unpack_to_sample --time_limit 10"
    SFT_FLAGS="--max_length 1536 --instruct --prompt_level all --gradient_checkpointing"
    SFT_FLAGS="$SFT_FLAGS --lora_r 16 --lora_alpha 32 --lora_dropout 0.1"
    PPO_FLAGS="$rl_flags --batch_size 8 --sample_batch_size 4 --gae_lambda 1 --curriculum_epochs 4" # 8 at a time need 24 GB
    GRPO_FLAGS="$rl_flags --sample_batch_size 8 --curriculum_epochs 0.5" # a run draws 100 tasks
    EVAL_FLAGS="$length_flags --batch_size 8 --time_limit 10"
    ;;
smol | qwen) # real models that a small GPU or a CPU can train
    case $PROFILE in smol) hub=HuggingFaceTB/SmolLM2-135M-Instruct ;; *) hub=Qwen/Qwen2.5-Coder-0.5B-Instruct ;; esac
    : "${DATASET:=mbpp}" "${PREFIX:=${MODEL:+$(basename "$MODEL" .gguf)_$DATASET}}" "${PREFIX:=${PROFILE}_$DATASET}"
    case $DATASET in mbpp | humaneval) ;; *) echo "error: DATASET=$DATASET: want mbpp or humaneval" >&2 && exit 2 ;; esac
    : "${MODEL:=$hub}" "${TRAIN:=data/${DATASET}_train.jsonl}" "${TEST:=data/${DATASET}_test.jsonl}"
    SFT=${PREFIX}_lora_sft
    length_flags="--max_length 768 --max_new_tokens 256"
    [ "$PROFILE" = qwen ] || length_flags="$length_flags --temperature 0.6" # at 1, nothing that SmolLM2 samples passes
    passes="--micro_batch_tokens 2048" # less memory than 4096, for a CPU
    SFT_FLAGS="--max_length 768 --learning_rate 2e-4 --per_device_train_batch_size 4 --gradient_accumulation_steps 2"
    real_model_flags 40000
    EVAL_FLAGS="--max_length 2048 --max_new_tokens 256" # a prompt of MBPP's test tasks has 1,735 tokens
    fetch
    ;;
deepseek) # the scripts' own defaults: the original's, but for what ORIGINAL=1 changes
    : "${PREFIX:=${MODEL:+$(basename "$MODEL" .gguf)$variant}}" "${PREFIX:=deepseek_1_3b$variant}"
    : "${MODEL:=deepseek-ai/deepseek-coder-1.3b-base}"
    : "${TRAIN:=data/humaneval_train.jsonl}" "${TEST:=data/humaneval_test.jsonl}"
    SFT=${PREFIX}_lora_sft_v2
    case $variant in
    _original) # 200 updates of SFT, where an epoch has 17; GRPO is not in the original
        SFT_FLAGS="--max_steps 200"
        RL_FLAGS="--temperature 0.8 --top_p 0.95"
        PPO_FLAGS="$RL_FLAGS --std_ddof 1 --std_floor 0"
        ;;
    _tuned) # at 5e-6, REINFORCE of 100 single samples changes hardly a greedy completion
        length_flags="" passes=""
        SFT_FLAGS="--learning_rate 2e-4"
        real_model_flags 200000
        ;;
    esac
    fetch
    ;;
*)
    echo "error: PROFILE=$PROFILE${TASKS:+ TASKS=$TASKS}: want pocket, smol, qwen or deepseek;" \
        "TASKS=verilog with pocket or deepseek" >&2
    exit 2
    ;;
esac

: "${SFT_TRAIN:=$TRAIN}" "${ALPHAS:=0.01 0.03}"
for file in "$TRAIN" "$SFT_TRAIN" "$TEST"; do
    [ -f "$file" ] || { echo "error: $file: no such task file" >&2 && exit 2; }
done

RESULTS=${RESULTS:-results} CHECKPOINTS=${CHECKPOINTS:-checkpoints}
SEED=${SEED:-42}
[ "$SEED" = 42 ] && run="" || run=_seed$SEED
SFT=$CHECKPOINTS/$SFT$run
SFT_FLAGS="$SFT_FLAGS --seed $SEED ${STEPS:+--max_steps $STEPS} $MY_SFT_FLAGS"
RL_FLAGS="$RL_FLAGS --seed $SEED ${STEPS:+--num_steps $STEPS} $MY_RL_FLAGS"
PPO_FLAGS="$PPO_FLAGS --seed $SEED ${STEPS:+--num_updates $STEPS} $MY_PPO_FLAGS"
GRPO_FLAGS="$GRPO_FLAGS --seed $SEED ${STEPS:+--num_steps $STEPS} $MY_GRPO_FLAGS"
DPO_DATA_FLAGS="$DPO_DATA_FLAGS ${LIMIT:+--limit $LIMIT} $MY_DPO_DATA_FLAGS"
DPO_FLAGS="$DPO_FLAGS --seed $SEED ${STEPS:+--num_steps $STEPS} $MY_DPO_FLAGS"
RFT_FLAGS="$RFT_FLAGS --seed $SEED ${STEPS:+--num_steps $STEPS} $MY_RFT_FLAGS"
EVAL_FLAGS="$EVAL_FLAGS ${LIMIT:+--limit $LIMIT} $MY_EVAL_FLAGS"

# checkpoint_name METHOD ALPHA: print the checkpoint's name, as in the original.
checkpoint_name() {
    name=${PREFIX}_lora_$1_alpha$2
    [ "$name" != deepseek_1_3b_lora_rl_alpha0.01 ] || name=${name}_100
    echo "$CHECKPOINTS/$name$run"
}

ALSO= # other files whose contents can change the output of a stage

# stage OUTPUT INPUT python SCRIPT FLAGS...: run the command. Skip it if the same command, with the same code and tasks,
# has already made OUTPUT and INPUT is not newer.
stage() {
    output=$1 input=$2 script=$4
    shift 2
    made_by=$CHECKPOINTS/.made_by/$(basename "$output")
    now="$* $(cat $(python common/dependencies.py "$script") $ALSO "$TRAIN" "$SFT_TRAIN" "$TEST" | cksum)"
    if [ "${FORCE:-0}" = 1 ]; then
        rm -rf "$output.partial"
    elif [ -e "$output" ] && [ "$(cat "$made_by" 2> /dev/null)" = "$now" ] &&
        { [ ! -e "$input" ] || [ "$output" -nt "$input" ]; }; then
        echo "$output is complete: skipped (FORCE=1 redoes it)"
        return
    fi
    echo "$*"
    "$@"
    mkdir -p "$CHECKPOINTS/.made_by"
    echo "$now" > "$made_by"
}

# evaluate NAME MODEL: evaluate the model on the test tasks and write the results to $RESULTS.
evaluate() {
    stage "$RESULTS/${PREFIX}_$1_metrics.json" "$2" python eval_humaneval.py \
        --exp_name "${PREFIX}_$1" --model_path "$2" --data_path "$TEST" --results_dir "$RESULTS" $EVAL_FLAGS
}

# supervised NAME FOLDER FILE: train FOLDER on the solutions of FILE, unless it exists, and evaluate it as NAME.
supervised() {
    stage "$2" "$3" python train_sft_lora.py \
        --model_name "$MODEL" --train_path "$3" --output_dir "$2" $SFT_FLAGS
    evaluate "$1$run" "$2"
}

# sft: make the SFT adapter, which the other methods start from.
sft() {
    supervised sft "$SFT" "$SFT_TRAIN"
}
