"""Every way to make a LoRA adapter: what is evaluated and trained is the adapter, what is trained loads again."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from sampled import sample

import eval_humaneval
import merge_adapter
import train_dpo_lora
import train_rl_lora
from common import InputError
from judging.tasks import read_tasks
from model import adapters
from model.load import load_policy, load_tokenizer
from model.merged_copy import merged_copy
from model.parity import check_copy
from model.sampling import encode_prompts

sys.path.insert(0, str(ROOT / "benchmarks"))
from adapter_gap import KINDS, gaps, make_adapter  # noqa: E402

CPU = torch.device("cpu")
OWN_FORWARD = {"DoRA", "lora_bias", "LM head", "embeddings", "LM head saved whole", "embeddings saved whole",
               "some tokens"}  # fmt: skip
MERGED = set(KINDS) - OWN_FORWARD - {"bias"}
pytestmark = pytest.mark.filterwarnings("ignore")  # peft's, of tied weights


@pytest.fixture(scope="module")
def made(pocket, tmp_path_factory):
    """The folder of an adapter of a kind."""
    folders: dict[str, str] = {}

    def make(kind: str) -> str:
        if kind not in folders:
            folders[kind] = make_adapter(pocket, kind, tmp_path_factory.mktemp("kinds") / "adapter")
        return folders[kind]

    return make


@pytest.fixture(scope="module")
def prompts(pocket):
    return encode_prompts(load_tokenizer(pocket), read_tasks("data/pocket_valid.jsonl")[:2], 256)


@pytest.mark.parametrize("kind", KINDS)
def test_what_samples_is_base_and_adapter(made, pocket, prompts, kind):
    found = gaps(made(kind), pocket, prompts, max_new_tokens=12)
    assert found["sampler_max"] < 1e-4 and found["trainer_max"] < 1e-4
    assert found["adapter_mean"] > 0.005  # it does something


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_copied_or_sampled_from_itself(made, prompts, kind):
    model = load_policy(made(kind), CPU).eval()
    own = merged_copy(model) is model.get_base_model()
    assert own == (kind in OWN_FORWARD)
    assert check_copy(model, prompts) < 1e-4


def test_a_copy_without_the_adapter_is_noticed(made, prompts, monkeypatch):
    model = load_policy(made("DoRA"), CPU).eval()
    monkeypatch.setattr(adapters, "is_plain", lambda base: True)
    with pytest.raises(InputError, match="the copy that samples differs from the model by .* nats"):
        check_copy(model, prompts)


def train(adapter: str, folder: Path, tasks: str) -> dict:
    """Two steps of REINFORCE; gives the configuration that is written."""
    train_rl_lora.main(train_rl_lora.Args(train_path=tasks, sft_model=adapter, output_dir=str(folder), num_steps=2,
                                          batch_size=2, num_samples=2, max_length=384, max_new_tokens=12,
                                          reward="shaped", save_every=0, learning_rate=1e-3))  # fmt: skip
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    "kind",
    [kind if kind in ("a regular expression", "DoRA", "LM head") else pytest.param(kind, marks=pytest.mark.slow)
     for kind in KINDS],
)  # fmt: skip
def test_what_is_trained_can_be_loaded_evaluated_and_merged(made, tasks_path, tmp_path, pocket, prompts, kind, capsys):
    before = json.loads((Path(made(kind)) / "adapter_config.json").read_text())
    if kind == "bias":
        with pytest.raises(InputError, match="trains biases of the model itself"):
            train(made(kind), tmp_path / "rl", tasks_path)
        return
    after = train(made(kind), tmp_path / "rl", tasks_path)
    for name in ("target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "use_dora", "use_rslora"):
        one, other = (sorted(v) if isinstance(v := config.get(name), list) else v for config in (before, after))
        assert one == other, name
    first, trained = (load_policy(folder, CPU).eval() for folder in (made(kind), str(tmp_path / "rl")))
    weights = [adapters.get_peft_model_state_dict(m, save_embedding_layers=False) for m in (first, trained)]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert gaps(str(tmp_path / "rl"), pocket, prompts, 8)["sampler_max"] < 1e-4
    asked = {"model_path": str(tmp_path / "rl"), "data_path": tasks_path, "results_dir": str(tmp_path)}
    eval_humaneval.main(eval_humaneval.Args(**asked, exp_name="kind", limit=1, max_length=384, max_new_tokens=8))
    merge = merge_adapter.Args(adapter_model_id=str(tmp_path / "rl"), results_dir=str(tmp_path), dtype="float32")
    if kind in MERGED:
        merge_adapter.main(merge)
        assert (tmp_path / "rl-merged" / "config.json").exists()
    else:
        with pytest.raises(InputError, match="can be merged|is adapted"):
            merge_adapter.main(merge)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DoRA", "LM head", "embeddings saved whole", "some tokens"])
def test_dpo_starts_at_ln_2(made, tmp_path, kind):
    task = read_tasks("data/pocket_train.jsonl")[0]
    pair = {"prompt": task["prompt"], "chosen": task["canonical_solution"], "rejected": "    pass\n"}
    (tmp_path / "p.jsonl").write_text(json.dumps(pair) + "\n")
    paths = {"train_path": str(tmp_path / "p.jsonl"), "sft_model": made(kind), "output_dir": str(tmp_path / "dpo")}
    train_dpo_lora.main(train_dpo_lora.Args(**paths, num_steps=2, batch_size=1, learning_rate=1e-3))


def written(made, tmp_path, kind="a list of names", **changes) -> str:
    """A copy of an adapter with another configuration."""
    folder = tmp_path / "changed"
    folder.mkdir()
    for file in Path(made(kind)).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    "changes, said",
    [({"peft_type": "IA3"}, "is an adapter of type IA3"), ({"layer_replication": [[0, 2]]}, "has layer_replication"),
     ({"target_parameters": ["mlp.experts"]}, "has target_parameters")],
)  # fmt: skip
def test_what_is_no_lora_is_refused_before_weights_are_loaded(made, tmp_path, monkeypatch, changes, said):
    from transformers import AutoModelForCausalLM

    folder = written(made, tmp_path, **changes)  # first: to make an adapter loads weights
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    for read in (load_tokenizer, lambda name: load_policy(name, CPU)):
        with pytest.raises(InputError, match=said):
            read(folder)


def test_weights_that_the_model_takes_no_notice_of_are_named(made, tmp_path):
    with pytest.raises(InputError, match="does not fit its base model: .* no counterpart, the first"):
        load_policy(written(made, tmp_path, target_modules=["q_proj", "v_proj"]), CPU)


def test_weights_that_are_no_safetensors_are_not_read(made, tmp_path):
    folder = written(made, tmp_path)
    (Path(folder) / "adapter_model.safetensors").rename(Path(folder) / "adapter_model.bin")
    with pytest.raises(InputError, match="no adapter_model.safetensors"):
        load_policy(folder, CPU)


@pytest.mark.parametrize(
    "kind, said",
    [("DoRA", "use_dora"), ("LM head", "LoRA on lm_head"), ("embeddings saved whole", "modules_to_save"),
     ("some tokens", "trainable_token_indices"), ("bias", "bias all")],
)  # fmt: skip
def test_the_preflight_and_vllm_say_what_they_do_not_take(made, kind, said):
    for where in ("--preflight", "--engine vllm"):
        with pytest.raises(InputError, match=f"{where}: takes plain LoRA .* has .*{said}"):
            adapters.check_plain(made(kind), where)


def test_one_token_more(made, prompts):
    """The sampler goes on from what was sampled in the policy's own forward pass as well."""
    model = load_policy(made("DoRA"), CPU).eval()
    (r, *_) = sample(model, load_tokenizer(made("DoRA")), prompts, max_new_tokens=6, temperature=0.0)
    ids = torch.tensor([r.prompt_ids + r.token_ids])
    assert model(ids).logits[0, len(r.prompt_ids) - 1 : -1].argmax(-1).tolist() == r.token_ids
