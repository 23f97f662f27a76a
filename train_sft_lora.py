"""Supervised fine-tuning (SFT) of a 4-bit LoRA policy on the canonical solutions.

    L = -mean over solution tokens and the EOS of log p(token | prompt, tokens before)

Prompt tokens carry no loss. Prompt and solution are tokenised apart and their ids joined, because sampling later
continues from the prompt's ids. Left out of QLoRA (arXiv 2305.14314): the paged optimizer. The loop is transformers'
Trainer, which clips the gradient's norm to 1.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Literal

from common import InputError, require, require_at_least, run_script
from common.run_args import TrainArgs
from judging.instruct import answer
from judging.tasks import CURRICULUM, Task, read_tasks
from training.record import RunLog
from training.tracking import Tracker, check_tracker, run_name


@dataclass
class Args(TrainArgs):
    # data and model
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    prompt_level: Literal["normal", "detailed", "terse", "all"] = "normal"  # which prompt of a task; all: each of them
    instruct: bool = False  # learn an explanation (a task's "explanation", if any), then the program in a fenced block
    model_name: str = "deepseek-ai/deepseek-coder-1.3b-base"  # hub name or folder of the base model
    output_dir: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # where the adapter goes
    max_length: int = 1024  # tokens of prompt and solution together, at most
    seed: int = 42  # order, dropout, adapter
    # adapter
    lora_r: int = 8  # rank of the adapter
    lora_alpha: int = 16  # its scale is alpha / r
    lora_dropout: float = 0.05  # on the adapter's input, while training
    # optimisation
    per_device_train_batch_size: int = 1  # examples at a time
    gradient_accumulation_steps: int = 8  # batches an update
    num_train_epochs: float = 1.0  # passes over the tasks
    max_steps: int = -1  # updates; overrides the epochs if given; 0 saves the fresh adapter, which changes nothing
    learning_rate: float = 5e-5  # peak of the schedule
    lr_scheduler_type: str = "linear"  # any schedule of transformers: linear, cosine, constant, ...


def encode(tokenizer, task: Task, max_length: int) -> dict[str, list[int]]:
    """Return the token ids of prompt, solution and EOS, and labels: -100 on the prompt.

    Raises:
        InputError: an example is longer than max_length; a cut solution would lose its end.
    """
    from model.sampling import prompt_text
    from model.tokens import check_round_trip, completion_ids, prompt_ids

    prompt = prompt_ids(tokenizer, **prompt_text(tokenizer, task))
    check_round_trip(tokenizer, [task], [prompt])
    solution = completion_ids(tokenizer, prompt, answer(task)) + [tokenizer.eos_token_id]
    ids = prompt + solution
    if len(ids) > max_length:
        raise InputError(
            f"{task['task_id']}: {len(ids)} tokens, more than --max_length {max_length}; raise it or drop the task"
        )
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + solution}


def main(args: Args) -> None:
    require(args.learning_rate > 0, f"--learning_rate {args.learning_rate}: must be positive")
    require(args.num_train_epochs > 0 or args.max_steps > 0, "--num_train_epochs must be positive")
    require_at_least(0, args, "keep_every")
    check_tracker(args)
    levels = CURRICULUM if args.prompt_level == "all" else (args.prompt_level,)
    tasks = [task for level in levels for task in read_tasks(args.train_path, level, args.instruct)]

    import torch
    from transformers import (
        DataCollatorForSeq2Seq,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    from common.processes import output_folder, processes
    from model.load import (
        add_lora,
        compute_dtype,
        load_config,
        load_policy,
        load_tokenizer,
        pick_device,
        save_adapter,
        set_deterministic,
        trainable_parameters,
    )
    from model.memory import answer_for_memory, warn_if_large
    from model.tokens import check_ids
    from training.record import conclude, finish_record, start_record
    from training.screen import Screen

    device = pick_device()
    dtype = compute_dtype(device, args.dtype)
    set_deterministic(args.deterministic)
    started, screen = time.perf_counter(), Screen(args)
    with screen.notes(), output_folder(args.output_dir) as folder:
        run_record = start_record(folder, args)
        tokenizer = load_tokenizer(args.model_name, args.trust_remote_code)
        examples = [encode(tokenizer, task, args.max_length) for task in tasks]
        config = load_config(args.model_name, args.trust_remote_code)
        for task, example in zip(tasks, examples, strict=True):
            check_ids(config, task["task_id"], [example["input_ids"]])
        longest = max(len(example["input_ids"]) for example in examples)
        warn_if_large(replace(args, max_length=longest), "sft", args.model_name)
        set_seed(args.seed)
        model = load_policy(
            args.model_name, device, trainable=True, trust_remote_code=args.trust_remote_code, dtype=dtype
        )
        model = add_lora(model, args.lora_r, args.lora_alpha, args.lora_dropout)
        for parameter in trainable_parameters(model):
            parameter.data = parameter.data.float()  # the adapter learns in float32, whatever the base computes in
        if args.gradient_checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        print(f"SFT: {len(tasks)} tasks, {sum(p.numel() for p in trainable_parameters(model)):,} trainable weights")

        log = RunLog(folder / "sft_train_log.jsonl")
        tracker = Tracker(args.report_to, folder, asdict(args), run_name(args))

        class Log(TrainerCallback):
            def on_log(self, arguments, state, control, logs=None, **_):
                record = {"step": state.global_step, **logs}
                log.write(record)
                tracker.log(record)
                if "loss" in record or args.json_lines:
                    screen.show(record, state.global_step / state.max_steps)

            def on_step_end(self, arguments, state, control, **_):
                if args.keep_every and state.global_step % args.keep_every == 0:
                    save_adapter(model, tokenizer, folder / f"step_{state.global_step}")

        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=args.per_device_train_batch_size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            num_train_epochs=args.num_train_epochs,
            max_steps=args.max_steps,
            learning_rate=args.learning_rate,
            lr_scheduler_type=args.lr_scheduler_type,
            bf16=dtype == torch.bfloat16,
            fp16=dtype == torch.float16,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=torch.cuda.is_available(),
            logging_steps=10,
            logging_first_step=True,  # on a CPU ten steps of a large model are long: show early that it runs
            disable_tqdm=True,
            save_strategy="no",
            report_to="none",
            seed=args.seed,
        )
        if arguments.n_gpu > 1:  # reading it settles it; Trainer would count a batch for each GPU that it sees
            arguments._n_gpu = 1
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
            callbacks=[Log()],
        )
        trainer.remove_callback(PrinterCallback)  # the screen is ours
        screen.began = time.perf_counter()
        try:
            if args.max_steps != 0:
                with answer_for_memory(args, lambda: "training"):
                    trainer.train()
        finally:
            log.close()
            tracker.close()
        save_adapter(model, tokenizer, folder)
        finish_record(folder, run_record, trainer.state.global_step, 0, time.perf_counter() - started)
    if args.max_steps != 0 and processes().is_main_process:
        with screen.notes():
            conclude(args.output_dir, "sft")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
