"""Merging an adapter: the merged folder is base + adapter, nothing is lost on the way, nothing is pushed unasked."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import InputError, parse_args, sha256
from judging.tasks import read_tasks
from merge_adapter import Args, main
from model import merging
from model.load import add_lora, load_policy, load_tokenizer, save_adapter, trainable_parameters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def adapter(pocket, tmp_path_factory) -> str:
    """An adapter that changes most of what the pocket model writes, as a GRPO run might leave it."""
    folder = tmp_path_factory.mktemp("run") / "grpo"
    torch.manual_seed(5)
    model = add_lora(load_policy(pocket, CPU), 4, 8, 0.1)
    for parameter in trainable_parameters(model):
        torch.nn.init.normal_(parameter, std=0.06)
    save_adapter(model, load_tokenizer(pocket), folder)
    record = {"args": {"train_path": "data/t.jsonl", "sft_model": "checkpoints/sft", "learning_rate": 1e-3},
              "train_sha256": "1" * 64, "command": "python train_grpo_lora.py --learning_rate 1e-3", "gpu": None,
              "cpu": "a processor", "cores": 2, "versions": {"torch": "2.13.0"}, "commit": "abc1234"}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "grpo_train_log.jsonl").touch()
    return str(folder)


@pytest.fixture(scope="module")
def merged(adapter, tmp_path_factory) -> dict[str, Path]:
    """The merged folder of each dtype."""
    folder = tmp_path_factory.mktemp("merged")
    for dtype in ("float32", "bfloat16"):
        main(Args(adapter_model_id=adapter, output_dir=str(folder / dtype), dtype=dtype, results_dir=str(folder)))
    return {dtype: folder / dtype for dtype in ("float32", "bfloat16")}


@pytest.fixture
def no_loading(monkeypatch):
    monkeypatch.setattr(merging, "load_plain", lambda *args: pytest.fail("a model was loaded"))


def plain(pocket: str, adapter: str):
    """Base + adapter as peft has it, in float32."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.float32), adapter).eval()


def greedy(model, ids: list[int]) -> list[int]:
    output = model.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=32)
    return output[0, len(ids) :].tolist()


@pytest.fixture(scope="module")
def prompts(pocket) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(pocket)
    return [tokenizer(task["prompt"]).input_ids for task in read_tasks("data/pocket_valid.jsonl")[:4]]


def test_plain_transformers_continues_as_base_and_adapter_do(pocket, adapter, merged, prompts):
    wanted, model = plain(pocket, adapter), AutoModelForCausalLM.from_pretrained(merged["float32"])
    assert not isinstance(model, PeftModel) and model.dtype == torch.float32
    completions = [greedy(wanted, ids) for ids in prompts]
    assert [greedy(model, ids) for ids in prompts] == completions
    base = AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.float32)
    assert sum(greedy(base, ids) != c for ids, c in zip(prompts, completions, strict=True)) >= 2  # the adapter matters


def test_in_bfloat16_only_near_ties_fall_otherwise(pocket, adapter, merged, prompts):
    """Along base + adapter's greedy completions, the merged model's likeliest token is theirs, or all but as likely."""
    wanted, model = plain(pocket, adapter), AutoModelForCausalLM.from_pretrained(merged["bfloat16"])
    assert model.dtype == torch.bfloat16
    same = positions = 0
    for ids in prompts:
        completion = greedy(wanted, ids)
        with torch.no_grad():
            before = wanted(torch.tensor([ids + completion])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            after = model.float()(torch.tensor([ids + completion])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        assert before.argmax(-1).tolist() == completion
        chosen = after.argmax(-1)
        behind = before.max(-1).values - before.gather(1, chosen[:, None]).squeeze(1)
        assert behind.max() < 0.1
        same, positions = same + (chosen == before.argmax(-1)).sum().item(), positions + len(completion)
    assert same >= 0.97 * positions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_adapted_weight_is_the_sum_rounded_once(pocket, adapter, merged, dtype):
    base, lora = load_file(f"{pocket}/model.safetensors"), load_file(f"{adapter}/adapter_model.safetensors")
    now = load_file(merged[dtype] / "model.safetensors")
    assert now.keys() == base.keys()
    adapted = 0
    for name, weight in base.items():
        wanted = weight.double()
        a = lora.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        if a is not None:
            b = lora[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"]
            wanted, adapted = wanted + 2 * (b.double() @ a.double()), adapted + 1  # alpha / r = 8 / 4
        assert torch.allclose(now[name].double(), wanted, rtol=2**-8 if dtype == "bfloat16" else 1e-6, atol=1e-7)
        assert now[name].dtype == getattr(torch, dtype)
    assert adapted == len(lora) / 2 == 28


def test_a_float32_base_is_not_rounded_before_the_sum(pocket, adapter, tmp_path):
    """A base between two bfloat16 numbers, and an adapter that makes the sum one: rounded first, it would miss it."""
    wide = tmp_path / "wide"
    model = AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.float32)
    lora = load_file(f"{adapter}/adapter_model.safetensors")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            a = lora.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
            if a is not None:
                weight -= 2 * lora[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"] @ a
    model.save_pretrained(wide)
    load_tokenizer(pocket).save_pretrained(wide)
    main(Args(adapter_model_id=adapter, base_model_name=str(wide), output_dir=str(tmp_path / "out")))
    before, after = load_file(f"{pocket}/model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(before[name], after[name]) and not torch.equal(
        before[name], load_file(wide / "model.safetensors")[name].bfloat16()
    )


def test_the_folder_is_a_whole_model_without_pickle(pocket, adapter, merged):
    files = {path.name for path in merged["bfloat16"].iterdir()}
    assert files == {"README.md", "config.json", "generation_config.json", "model.safetensors", "run.json",
                     "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    assert not list(merged["bfloat16"].parent.glob("*.partial"))
    record = json.loads((merged["bfloat16"] / "run.json").read_text())
    assert record["adapter_sha256"] == sha256(f"{adapter}/adapter_model.safetensors")
    assert record["base_model"] == pocket and record["check"]["mean"] <= record["check"]["bound"] == 0.05
    assert 0 < record["check"]["share_of_effect"] < 0.1
    exact = json.loads((merged["float32"] / "run.json").read_text())
    assert exact["check"]["share_of_effect"] < 1e-4 and exact["check"]["largest"] < 1e-3
    assert exact["check"]["adapter_effect"] > 0.1
    policy = load_policy(str(merged["bfloat16"]), CPU)  # as eval_humaneval.py does
    assert load_tokenizer(str(merged["bfloat16"])).eos_token_id == policy.generation_config.eos_token_id == 1


def test_a_small_adapter_is_said_to_be_rounded_away(adapter, tmp_path, capsys):
    small = tmp_path / "small"
    shutil.copytree(adapter, small)
    weights = load_file(small / "adapter_model.safetensors")
    save_file({n: w * (1e-3 if "lora_B" in n else 1) for n, w in weights.items()}, small / "adapter_model.safetensors")
    main(Args(adapter_model_id=str(small)))
    out = capsys.readouterr().out
    assert "warning: bfloat16 is too coarse for an adapter this small" in out and f"saved {small}-merged" in out
    assert json.loads((tmp_path / "small-merged" / "run.json").read_text())["check"]["share_of_effect"] > 0.1


def test_what_is_saved_must_be_what_was_merged(adapter, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("the last good one")
    args = Args(adapter_model_id=adapter, output_dir=str(tmp_path / "out"))
    load = merging.load_plain

    def corrupted(name, *rest):
        if name.endswith(".partial"):
            weights = load_file(f"{name}/model.safetensors")
            weights["model.layers.2.mlp.up_proj.weight"][3, 5] += 0.5
            save_file(weights, f"{name}/model.safetensors", {"format": "pt"})
        return load(name, *rest)

    monkeypatch.setattr(merging, "load_plain", corrupted)
    with pytest.raises(InputError, match="loaded again, is not the merged one"):
        main(args)
    monkeypatch.undo()
    monkeypatch.setattr(merging.Linear, "get_delta_weight", lambda layer, name: 0 * layer.base_layer.weight.float())
    with pytest.raises(InputError, match="is not base \\+ adapter"):
        main(args)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]
    assert (tmp_path / "out" / "run.json").read_text() == "the last good one"


def test_the_comparison_computes_in_float32_and_leaves_the_weights_alone(pocket):
    tokenizer = load_tokenizer(pocket)
    wide, narrow = (AutoModelForCausalLM.from_pretrained(pocket, dtype=d).eval() for d in (torch.float32, "auto"))
    assert narrow.dtype == torch.bfloat16
    first = merging.text_logprobs(narrow, tokenizer)
    assert torch.equal(first, merging.text_logprobs(wide, tokenizer))  # the stored weights are the same numbers
    ids = torch.tensor([tokenizer(merging.TEXTS[0]).input_ids])
    with torch.no_grad():
        direct = wide(ids).logits[0].log_softmax(-1)
        assert torch.allclose(first[: ids.shape[1]], direct, atol=1e-4)
        assert narrow(ids).logits.dtype == torch.bfloat16  # as it was
        assert (narrow(ids).logits[0].float().log_softmax(-1) - direct).abs().max() > 0.01
    with pytest.raises(RuntimeError), merging.in_float32():
        narrow(torch.tensor([[0.5]]))
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}


def test_what_is_no_use_is_said_before_a_model_is_loaded(pocket, adapter, tmp_path, monkeypatch, no_loading):
    def refused(says: str, **settings) -> None:
        with pytest.raises(InputError, match=says):
            main(Args(**({"adapter_model_id": adapter, "output_dir": str(tmp_path / "out")} | settings)))

    refused("is no adapter; there is nothing to merge", adapter_model_id=pocket)
    refused("no model here", adapter_model_id="checkpoints/never_trained")
    refused("the hub cannot be reached", adapter_model_id="somebody/some-adapter")
    refused("is an adapter, not a base model", base_model_name=adapter)
    refused("holds an adapter, or the base model", output_dir=adapter)
    refused("holds an adapter, or the base model", output_dir=pocket)
    refused("holds an adapter, or the base model", output_dir=str(Path(adapter).parent))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").touch()
    refused("holds other files", output_dir=str(tmp_path / "thesis"))
    refused("cannot be written", output_dir=str(tmp_path / "thesis" / "chapter.txt" / "out"))
    refused("add --push_to_hub", hub_model_id="me/x")
    refused("add --push_to_hub", public=True)
    refused("name the repository", push_to_hub=True)
    refused("no repository's name", push_to_hub=True, hub_model_id="a//b c")
    refused("want OWNER/NAME", push_to_hub=True, hub_model_id="gpt2")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    refused("no token; run `hf auth login` or set HF_TOKEN", push_to_hub=True, hub_model_id="me/x")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    refused("cannot be reached", push_to_hub=True, hub_model_id="me/x")  # HF_HUB_OFFLINE
    bad = tmp_path / "bad_metrics.json"
    bad.write_text(json.dumps({"is_lora": True, "model_path": adapter}))
    refused("bad_metrics.json: not what a run", results_dir=str(tmp_path))
    bad.write_text("{")
    refused("bad_metrics.json: cannot be read", results_dir=str(tmp_path))
    odd = tmp_path / "odd"
    shutil.copytree(adapter, odd)
    weights = load_file(odd / "adapter_model.safetensors")
    save_file(weights | {"base_model.model.lm_head.weight": torch.ones(2)}, odd / "adapter_model.safetensors")
    refused("only plain LoRA adapters of linear layers.*lm_head", adapter_model_id=str(odd))
    (odd / "adapter_model.safetensors").write_bytes(b"pickle")
    refused("is no safetensors file", adapter_model_id=str(odd))
    (odd / "adapter_model.safetensors").unlink()
    refused("no adapter_model.safetensors", adapter_model_id=str(odd))


def test_no_token_at_the_shell(run_cli, tmp_path):
    code, out, err = run_cli("merge_adapter.py", "--push_to_hub", "--hub_model_id", "me/x", HF_TOKEN="",
                             HF_TOKEN_PATH=str(tmp_path / "none"))  # fmt: skip
    assert (code, out) == (2, "") and err.startswith("error: --push_to_hub: no token") and err.count("\n") == 1


def test_an_adapter_of_another_base_and_a_quantised_base_are_refused(pocket, adapter, tmp_path):
    short, quantised = tmp_path / "short", tmp_path / "quantised"
    shutil.copytree(pocket, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="does not fit its base model: 14 weights have no counterpart"):
        main(Args(adapter_model_id=adapter, base_model_name=str(short), output_dir=str(tmp_path / "out")))
    shutil.copytree(pocket, quantised)
    settings = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (quantised / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(InputError, match="its weights are quantised"):
        main(Args(adapter_model_id=adapter, base_model_name=str(quantised), output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


METRICS = {"exp_name": "grpo|1", "is_lora": True, "base_model": "pocket_coder", "num_tasks": 33, "num_samples": 33,
           "num_pass": 12, "pass_at_1": 12 / 33, "pass_at_1_interval": [0.222, 0.534], "pass_at_1_stopped": 0.5,
           "avg_gen_len": 40.25, "precision": "4-bit NF4, double quantisation", "data_sha256": "2" * 64,
           "command": "python eval_humaneval.py --model_path checkpoints/grpo", "commit": "def5678", "gpu": "a card",
           "cores": 2, "versions": {"torch": "2.13.0"}, "seconds": 1.0,
           "args": {"data_path": "data/pocket_test.jsonl", "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 128,
                    "time_limit": 5.0}}  # fmt: skip


def test_the_card_says_what_the_run_left_behind(adapter, merged, tmp_path, capsys):
    from reporting.model_card import card, evaluation, training

    text = (merged["bfloat16"] / "README.md").read_text()
    assert "## Evaluation\n\nNot evaluated.\n" in text and "weights in bfloat16" in text
    assert "- method: group relative policy optimisation (GRPO)\n" in text
    assert "- data: `data/t.jsonl`, SHA-256 `" + "1" * 64 + "`\n" in text
    assert "- started from: `checkpoints/sft`" in text and "- commit: `abc1234`\n" in text
    assert "- command: `python train_grpo_lora.py --learning_rate 1e-3`\n" in text and "learning_rate=0.001" in text
    known = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["code"]}
    assert ModelCard(text).data.to_dict() == known  # no base: not on the hub

    digest = sha256(f"{adapter}/adapter_model.safetensors")
    files = {"same": {"model_path": adapter, "adapter_sha256": digest},
             "before": {"model_path": adapter, "adapter_sha256": "0" * 64},
             "unsaid": {"model_path": adapter}, "other": {"model_path": "checkpoints/other"},
             "whole": {"model_path": adapter, "is_lora": False}}  # fmt: skip
    for name, settings in files.items():
        path = tmp_path / f"{name}_metrics.json"
        path.write_text(json.dumps(METRICS | {"exp_name": f"{name}|1"} | settings))
    found = evaluation(str(tmp_path), adapter, adapter)
    assert "before_metrics.json is of an earlier adapter" in capsys.readouterr().out
    assert "| same&#124;1 | 36.4% | 22.2 to 53.4% | 12/33 | 50.0% | 40.2 |" in found
    assert "**pocket_test.jsonl, 33 tasks (22222222), pocket_coder, greedy, 128 new tokens, 5 s a check**" in found
    assert "not of these merged weights" in found and "a card, 2 cores" in found and found.count("\n| ") == 3
    assert "unsaid|1 (def5678):\n  python eval_humaneval.py --model_path checkpoints/grpo\n" in found
    record = json.loads((merged["bfloat16"] / "run.json").read_text()) | {"base_model": "deepseek-ai/a-model"}
    text = card("me/x", record, training(str(tmp_path)), found)
    assert ModelCard(text).data.base_model == "deepseek-ai/a-model" and found.strip() in text
    assert "Not recorded: the adapter came without its run.json." in text


class Hub:
    """Stands in for the hub: one repository, or none."""

    def __init__(self, private: bool | None = None, fails: bool = False):
        self.private, self.fails, self.calls = private, fails, []

    def whoami(self):
        self.calls.append("whoami")

    def model_info(self, repo_id):
        if self.private is None:
            raise huggingface_hub.errors.RepositoryNotFoundError("none", response=SimpleNamespace(
                headers={}, request=None, status_code=404))  # fmt: skip
        return SimpleNamespace(private=self.private)

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append(("create", repo_id, private))
        self.private = private if self.private is None else self.private

    def upload_folder(self, repo_id, folder_path, commit_message):
        if self.fails:
            raise OSError("connection reset\nby peer")
        self.calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


def pushing(monkeypatch, hub: Hub, adapter: str, out: Path, **settings) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    main(Args(adapter_model_id=adapter, output_dir=str(out), push_to_hub=True, hub_model_id="me/x", **settings))


def test_a_push_is_private_and_uploads_the_merged_folder(adapter, tmp_path, monkeypatch, capsys):
    hub = Hub()
    pushing(monkeypatch, hub, adapter, tmp_path / "out")
    whoami, create, (_, repo, files) = hub.calls
    assert whoami == "whoami" and create == ("create", "me/x", True) and repo == "me/x"
    assert files == sorted(path.name for path in (tmp_path / "out").iterdir()) and "model.safetensors" in files
    assert "pushed to me/x, private" in capsys.readouterr().out
    assert 'from_pretrained("me/x")' in (tmp_path / "out" / "README.md").read_text()


def test_a_public_repository_is_not_written_to_unasked(adapter, tmp_path, monkeypatch, no_loading):
    hub = Hub(private=False)
    with pytest.raises(InputError, match="is public already"):
        pushing(monkeypatch, hub, adapter, tmp_path / "out")
    assert hub.calls == ["whoami"] and not (tmp_path / "out").exists()


def test_a_failed_push_loses_nothing(adapter, tmp_path, monkeypatch):
    hub = Hub(fails=True)
    with pytest.raises(InputError, match="not pushed.*hf upload me/x .*out") as error:
        pushing(monkeypatch, hub, adapter, tmp_path / "out", public=True)
    assert "\n" not in str(error.value) and hub.calls == ["whoami", ("create", "me/x", False)]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_nothing_is_pushed_and_no_token_read_unasked(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: pytest.fail("a token was read"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("the hub was asked"))
    args = parse_args(Args, ["--adapter_model_id", adapter, "--output_dir", str(tmp_path / "out")])
    assert not args.push_to_hub and not args.public
    main(args)
