import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import Plain
from safetensors.torch import load_file

import train_ppo_lora
import train_rl_lora
from common import InputError
from train_ppo_lora import Args, check, clipped_objective, clipped_value_loss, gae, ratios, z_score
from training import run as training
from training import sampler
from training.samples import Batch


def arguments(start, tasks_path, tmp_path, **settings) -> Args:
    base = dict(
        train_path=tasks_path,
        sft_model=start,
        output_dir=str(tmp_path / "ppo"),
        max_length=384,
        max_new_tokens=16,
        num_updates=1,
        batch_size=2,
        num_samples=3,
        learning_rate=1.0,
        max_grad_norm=0.0,
    )
    return Args(**base | settings)  # fmt: skip


def log_of(args) -> list[dict]:
    return [json.loads(line) for line in open(f"{args.output_dir}/ppo_train_log.jsonl")]


def reward(rollout, i: int, alpha: float) -> float:
    return (1.0 if i % 3 else 0.0) - alpha * len(rollout.token_ids) / 100


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_clipped_updates_are_the_hand_computed_ones(start, tasks_path, tmp_path, known_run, level):
    sampled = known_run()
    args = arguments(start, tasks_path, tmp_path, ppo_epochs=3, micro_batch_tokens=400, ratio_level=level,
                     length_penalty_alpha=0.03, learning_rate=0.02 if level == "sequence" else 0.5, clip_range=0.005,
                     temperature=0.9)  # fmt: skip
    train_ppo_lora.main(args)
    rollouts, plain = sampled[0], Plain(start)

    rewards = torch.tensor([reward(r, i, 0.03) for i, r in enumerate(rollouts)], dtype=torch.float64)
    advantage = (rewards - rewards.mean()) / ((rewards - rewards.mean()) ** 2).mean().sqrt()
    old = [plain.tokens(r, 0.9)[0].detach() for r in rollouts]
    active = 0
    for _ in range(3):
        loss = 0.0
        for i, r in enumerate(rollouts):
            gap = plain.tokens(r, 0.9)[0] - old[i]
            for rho in [gap.sum().exp()] if level == "sequence" else gap.exp():
                bounded = min(max(rho.item(), 0.995), 1.005)
                active += bounded != rho.item()
                taken = rho * advantage[i] if rho * advantage[i] <= bounded * advantage[i] else bounded * advantage[i]
                loss = loss - taken / (6 if level == "sequence" else sum(len(r.token_ids) for r in rollouts))
        plain.descend(loss, args.learning_rate)
    plain.assert_equals(start, args.output_dir)
    assert active > 0  # the clip did something
    assert log_of(args)[0]["clip_fraction"] > 0 and log_of(args)[0]["ratio_max"] > 1.005


def test_critic_entropy_and_kl_are_the_hand_computed_ones(start, tasks_path, tmp_path, known_run, monkeypatch):
    sampled = known_run()
    fixed = [[0, 3, 5], [1, 2, 4]]  # the minibatches of each epoch
    monkeypatch.setattr(Batch, "minibatches", lambda self, size, epochs: (self[rows] for rows in fixed * epochs))
    args = arguments(start, tasks_path, tmp_path, ppo_epochs=2, minibatch_size=3, micro_batch_tokens=300,
                     value_coef=0.5, entropy_coef=0.01, kl_coef=0.1, kl_in="loss", ratio_level="token",
                     learning_rate=2.0, num_updates=2, max_grad_norm=0.2, gamma=0.97, gae_lambda=0.9,
                     length_penalty_alpha=0.02)  # fmt: skip
    train_ppo_lora.main(args)
    plain, reference = Plain(start), Plain(start)
    for rollouts in sampled:
        before = [[values.detach() for values in plain.tokens(r)] for r in rollouts]
        old, old_values = [b[0] for b in before], [b[2] for b in before]
        ref = [reference.tokens(r)[0].detach() for r in rollouts]
        advantage, returns = [], []
        for i, r in enumerate(rollouts):  # A_t = sum_l (gamma lambda)^l delta_{t+l}
            steps, v = len(r.token_ids), [*old_values[i].tolist(), 0.0]
            delta = [(reward(r, i, 0.02) if t == steps - 1 else 0.0) + 0.97 * v[t + 1] - v[t] for t in range(steps)]
            advantage.append([sum((0.97 * 0.9) ** (k - t) * delta[k] for k in range(t, steps)) for t in range(steps)])
            returns.append([a + value for a, value in zip(advantage[-1], v, strict=False)])
        every = torch.tensor(list(itertools.chain(*advantage)), dtype=torch.float64)
        for rows in fixed * 2:
            tokens, loss = sum(len(rollouts[i].token_ids) for i in rows), 0.0
            for i in rows:
                logprobs, entropy, values = plain.tokens(rollouts[i])
                for t in range(len(logprobs)):
                    a = (advantage[i][t] - every.mean()) / every.std(correction=0)
                    rho = (logprobs[t] - old[i][t]).exp()
                    objective = torch.minimum(rho * a, rho.clamp(0.8, 1.2) * a)
                    near = old_values[i][t] + (values[t] - old_values[i][t]).clamp(-0.2, 0.2)
                    value = 0.5 * torch.maximum((values[t] - returns[i][t]) ** 2, (near - returns[i][t]) ** 2)
                    log_ratio = ref[i][t] - logprobs[t]
                    k3 = log_ratio.exp() - 1 - log_ratio
                    loss = loss + (-objective + 0.5 * value - 0.01 * entropy[t] + 0.1 * k3) / tokens
            drift = sum(
                (gap.exp() - 1 - gap).sum().item()
                for i in rows
                for gap in [plain.tokens(rollouts[i])[0].detach() - old[i]]
            ) / tokens  # fmt: skip
            plain.descend(loss, args.learning_rate, max_norm=0.2)
    plain.assert_equals(start, args.output_dir)
    critic = load_file(f"{args.output_dir}/critic.safetensors")
    assert plain.head.norm() > 0
    assert torch.allclose(critic["weight"][0], plain.head.detach(), rtol=1e-3, atol=1e-6)
    assert torch.allclose(critic["bias"], plain.offset.detach(), rtol=1e-3, atol=1e-6)
    first, second = log_of(args)
    assert second["optimizer_steps"] == 4 and second["value_loss"] > 0 and second["policy_entropy"] > 0
    assert second["approx_kl"] == pytest.approx(drift, rel=1e-2)
    gathered = torch.tensor(list(itertools.chain(*returns)), dtype=torch.float64)
    unexplained = (gathered - torch.cat(old_values)).var() / gathered.var()
    assert first["explained_variance"] == pytest.approx(0) and old_values[0].abs().max() > 0
    assert second["explained_variance"] == pytest.approx(1 - unexplained.item(), abs=1e-3)


def test_kl_in_the_reward_moves_the_advantage(start, tasks_path, tmp_path, known_run):
    """In the second update the policy has left the reference: its k1, summed over the tokens, is taken from R."""
    sampled = known_run()
    args = arguments(start, tasks_path, tmp_path, ppo_epochs=1, num_updates=2, kl_coef=0.5, learning_rate=0.2,
                     normalize_advantages=False, length_penalty_alpha=0.0)  # fmt: skip
    train_ppo_lora.main(args)
    plain, reference = Plain(start), Plain(start)
    for rollouts in sampled:
        loss = 0.0
        for i, r in enumerate(rollouts):
            logprobs = plain.tokens(r)[0]
            k1 = (logprobs - reference.tokens(r)[0]).sum().item()
            loss = loss - ((1.0 if i % 3 else 0.0) - 0.5 * k1) * logprobs.sum() / 6
        plain.descend(loss, 0.2)
    plain.assert_equals(start, args.output_dir)
    assert [record["kl_reference"] > 0 for record in log_of(args)] == [False, True]


def test_one_epoch_without_clipping_is_reinforce(start, tasks_path, tmp_path, known_run):
    known_run()
    settings = dict(train_path=tasks_path, sft_model=start, max_length=384, max_new_tokens=16, batch_size=2,
                    num_samples=3, learning_rate=1.0, max_grad_norm=0.0, length_penalty_alpha=0.03)  # fmt: skip
    train_ppo_lora.main(
        Args(**settings, output_dir=str(tmp_path / "ppo"), num_updates=1, ppo_epochs=1, normalize_advantages=False)
    )
    train_rl_lora.main(train_rl_lora.Args(**settings, output_dir=str(tmp_path / "rl"), num_steps=1))
    before, ppo, rl = (
        load_file(f"{at}/adapter_model.safetensors") for at in (start, tmp_path / "ppo", tmp_path / "rl")
    )
    largest = max((rl[name] - before[name]).abs().max() for name in rl).item()
    assert largest > 0
    for name in rl:
        assert (ppo[name] - rl[name]).abs().max().item() <= 1e-5 * largest, name


def test_micro_batches_change_nothing(start, tasks_path, tmp_path, known_run):
    known_run()
    ends = []
    for settings in (dict(), dict(micro_batch_tokens=1), dict(micro_batch_tokens=400, gradient_checkpointing=True)):
        args = arguments(start, tasks_path, tmp_path, ratio_level="token", value_coef=0.5, learning_rate=0.1,
                         output_dir=str(tmp_path / f"m{len(ends)}"), **settings)  # fmt: skip
        train_ppo_lora.main(args)
        ends.append(load_file(f"{args.output_dir}/adapter_model.safetensors"))
    before = load_file(f"{start}/adapter_model.safetensors")
    moved = max((ends[0][name] - before[name]).abs().max() for name in before).item()
    assert moved > 0
    for end in ends[1:]:
        assert max((end[name] - ends[0][name]).abs().max() for name in before).item() < 1e-3 * moved


def test_equal_rewards_leave_the_weights_as_they_were(start, tasks_path, tmp_path, known_run):
    known_run(passes=lambda call, i: True)
    args = arguments(start, tasks_path, tmp_path, length_penalty_alpha=0.0)
    train_ppo_lora.main(args)
    before, after = (load_file(f"{at}/adapter_model.safetensors") for at in (start, args.output_dir))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_target_kl_ends_the_epochs(start, tasks_path, tmp_path, known_run):
    known_run()
    far = arguments(start, tasks_path, tmp_path, ppo_epochs=6, learning_rate=0.2, target_kl=1e-6)
    train_ppo_lora.main(far)
    assert log_of(far)[0]["optimizer_steps"] == 1 and log_of(far)[0]["stopped_early"] == 1
    near = arguments(start, tasks_path, tmp_path, ppo_epochs=3, learning_rate=1e-5, target_kl=0.1)
    train_ppo_lora.main(near)
    assert log_of(near)[0]["optimizer_steps"] == 3 and log_of(near)[0]["stopped_early"] == 0


def test_a_batch_that_cannot_be_judged_is_passed_over(start, tasks_path, tmp_path, monkeypatch):
    import sandbox

    monkeypatch.setattr(sampler, "verdicts", lambda drawn: [sandbox.Verdict("infrastructure", "gone") for _ in drawn])
    args = arguments(start, tasks_path, tmp_path)
    train_ppo_lora.main(args)
    assert log_of(args)[0]["left_out"] == 6


def test_the_token_budget_ends_the_run(start, tasks_path, tmp_path, known_run):
    sampled = known_run()
    args = arguments(start, tasks_path, tmp_path, num_updates=50, token_budget=150, learning_rate=1e-6)
    train_ppo_lora.main(args)
    tokens = [sum(len(r.token_ids) for r in rollouts) for rollouts in sampled]
    assert sum(tokens) >= 150 > sum(tokens[:-1])
    assert log_of(args)[-1]["sampled_tokens"] == sum(tokens)


def test_gae_by_hand():
    # gamma 1, lambda 0.5; delta = (0 + .4 - .5, 0 + .6 - .4, 1 - .6); then A from the end
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.0, 0.0]])
    values = torch.tensor([[0.5, 0.4, 0.6], [0.2, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    advantage, returns = gae(rewards, values, mask, 1.0, 0.5)
    assert torch.allclose(advantage, torch.tensor([[0.1, 0.4, 0.4], [0.3, 0.0, 0.0]]))
    assert torch.allclose(returns, torch.tensor([[0.6, 0.8, 1.0], [0.5, 0.0, 0.0]]))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=6), st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_gae_with_lambda_one_is_the_return_less_the_value(rewards, values):
    r = torch.tensor([rewards], dtype=torch.float64)
    v = torch.tensor([values[: len(rewards)]], dtype=torch.float64)
    advantage, _ = gae(r, v, torch.ones_like(r), 0.9, 1.0)
    for t in range(len(rewards)):
        discounted = sum(0.9 ** (k - t) * rewards[k] for k in range(t, len(rewards)))
        assert advantage[0, t].item() == pytest.approx(discounted - values[t], abs=1e-9)


def test_the_clip_stops_the_gradient_only_on_the_far_side():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    objective = clipped_objective(ratio, advantage, 0.2)
    objective.sum().backward()
    assert objective.tolist() == [1.2, -1.5, 0.5, -0.8]
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0]


def test_the_value_loss_takes_the_worse_of_both():
    values, old = torch.tensor([1.0, 0.1], requires_grad=True), torch.tensor([0.0, 0.0])
    loss = clipped_value_loss(values, old, torch.tensor([1.0, 1.0]), 0.2)
    assert torch.allclose(loss, torch.tensor([0.5 * 0.8**2, 0.5 * 0.9**2]))
    loss.sum().backward()
    assert torch.allclose(values.grad, torch.tensor([0.0, -0.9]))


def test_ratios_per_token_and_per_sequence():
    new, old = torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[-1.5, -1.0, 0.0]])
    assert torch.allclose(ratios(new, old, "token"), torch.tensor([[0.5, -1.0, 0.0]]).exp())
    assert torch.allclose(ratios(new, old, "sequence"), torch.tensor([[-0.5]]).exp())


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20))
def test_z_scores_have_mean_0_and_deviation_1_or_are_0(values):
    advantage = torch.tensor(values)[:, None]
    score = z_score(advantage, torch.ones_like(advantage) > 0)
    if score.any():
        assert score.mean().item() == pytest.approx(0, abs=1e-4) and score.std(correction=0).item() == pytest.approx(
            1, abs=1e-4
        )
    else:
        assert max(values) - min(values) < 1e-6


def test_a_batch_that_fails_as_a_whole_is_not_scored_by_length():
    everywhere = torch.ones(3, 1) > 0
    lengths, tests = torch.tensor([[-0.002], [-0.004], [-0.006]]), torch.tensor([[0.0], [0.0], [1.0]])
    assert torch.allclose(z_score(lengths, everywhere, 0.1), torch.tensor([[0.02], [0.0], [-0.02]]), atol=1e-6)
    assert torch.equal(z_score(tests, everywhere, 0.1), z_score(tests, everywhere))


def test_the_floor_reaches_the_update(start, tasks_path, tmp_path, known_run):
    norms = []
    for floor in (0.0, 0.1):
        known_run(lambda call, i: False)
        args = arguments(start, tasks_path, tmp_path, std_floor=floor, length_penalty_alpha=0.01, ppo_epochs=1,
                         max_new_tokens=48, seed=2, output_dir=str(tmp_path / f"{floor}"))  # fmt: skip
        train_ppo_lora.main(args)
        norms.append(log_of(args)[0]["grad_norm"])
    assert norms[0] > 10 * norms[1] > 0
    with pytest.raises(InputError, match="std_floor"):
        train_ppo_lora.check(Args(std_floor=-0.1))


def test_the_degrees_of_freedom_of_the_z_score():
    everywhere, advantage = torch.ones(4, 1) > 0, torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    for ddof in (0, 1):
        expected = (advantage - advantage.mean()) / advantage.std(correction=ddof)
        assert torch.allclose(z_score(advantage, everywhere, 0.1, ddof), expected)
    wider = z_score(advantage, everywhere)[0] / z_score(advantage, everywhere, 0.0, 1)[0]
    assert wider.item() == pytest.approx((4 / 3) ** 0.5) == pytest.approx(1.155, abs=1e-3)
    near = torch.tensor([[0.18], [0.0], [0.18], [0.0]])  # the floor is for the std as it was asked for: 0.09 and 0.104
    assert z_score(near, everywhere, 0.1)[0].item() == pytest.approx(0.9)
    assert z_score(near, everywhere, 0.1, 1)[0].item() == pytest.approx(0.09 / near.std().item())
    assert z_score(torch.tensor([[2.0]]), torch.tensor([[True]]), 0.0, 1).tolist() == [[0.0]]  # the rest left out


def test_the_dual_clip_bounds_what_a_negative_advantage_can_do():
    ratio = torch.tensor([10.0, 2.9, 3.1, 1.0, 0.1, 10.0, 0.1, 10.0], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([-2.0, -2.0, -2.0, -2.0, -2.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    objective = clipped_objective(ratio, advantage, 0.2, 3.0)
    (gradient,) = torch.autograd.grad(objective.sum(), ratio)
    assert objective.tolist() == pytest.approx([-6.0, -5.8, -6.0, -2.0, -1.6, 2.4, 0.2, 0.0])
    assert gradient.tolist() == [0.0, -2.0, 0.0, -2.0, 0.0, 0.0, 2.0, 0.0]
    plain = clipped_objective(ratio, advantage, 0.2)
    (gradient,) = torch.autograd.grad(plain.sum(), ratio)
    assert plain[0].item() == -20.0 and gradient[0].item() == -2.0  # nothing else bounds that side
    assert torch.equal(plain[3:], objective[3:])


def test_std_and_dual_clip_reach_the_update(start, tasks_path, tmp_path, known_run):
    norms = {}
    for name, changed in {"": {}, "ddof": {"std_ddof": 1}, "dual": {"dual_clip": 1.0001}}.items():
        known_run()
        args = arguments(start, tasks_path, tmp_path, ppo_epochs=2, length_penalty_alpha=0.0, clip_range=10.0,
                         ratio_level="token", learning_rate=0.5, output_dir=str(tmp_path / f"r{name}"),
                         **changed)  # fmt: skip
        train_ppo_lora.main(args)
        norms[name] = log_of(args)[0]["grad_norm"]
    assert norms["ddof"] < norms[""] != norms["dual"]


def test_the_warm_up_trains_only_the_critic(start, tasks_path, tmp_path, known_run, capsys):
    sampled = known_run()
    args = arguments(start, tasks_path, tmp_path, ratio_level="token", value_coef=0.5, entropy_coef=0.01, num_updates=3,
                     ppo_epochs=1, critic_warmup=2, learning_rate=0.1, keep_every=2)  # fmt: skip
    train_ppo_lora.main(args)
    before, warm, after = (load_file(f"{at}/adapter_model.safetensors")
                           for at in (start, f"{args.output_dir}/step_2", args.output_dir))  # fmt: skip
    assert all(torch.equal(before[name], warm[name]) for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert load_file(f"{args.output_dir}/critic.safetensors")["weight"].abs().max() > 0
    first, second, third = log_of(args)
    assert first["explained_variance"] == pytest.approx(0) and second["explained_variance"] != pytest.approx(0)
    assert first["kl_reference"] == third["kl_reference"] == 0  # before its update
    assert third["sampled_tokens"] == sum(len(r.token_ids) for rollouts in sampled for r in rollouts)
    assert "warning" not in capsys.readouterr().out

    # the first gradient in plain float64: the critic's loss with V = 0, on states that stand still
    plain, loss, tokens = Plain(start), 0.0, sum(len(r.token_ids) for r in sampled[0])
    for i, r in enumerate(sampled[0]):
        steps, values = len(r.token_ids), plain.tokens(r)[2]
        returns = [0.95 ** (steps - 1 - t) * reward(r, i, 0.01) for t in range(steps)]
        loss = loss + 0.5 * sum(0.5 * (values[t] - returns[t]) ** 2 for t in range(steps)) / tokens
    gradients = torch.autograd.grad(loss, [plain.head, plain.offset])
    assert first["grad_norm"] == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-3)


class Broken(training.RunLog):
    def write(self, record):
        if record["step"] == 2:
            raise RuntimeError("the machine went away")
        super().write(record)


@pytest.mark.slow
def test_an_interrupted_warm_up_goes_on_where_it_was(start, tasks_path, tmp_path, monkeypatch, capsys):
    ends = []
    for name in ("whole", "stopped"):
        args = arguments(start, tasks_path, tmp_path, ratio_level="token", value_coef=0.5, critic_warmup=2,
                         num_updates=3, ppo_epochs=1, learning_rate=1e-3, save_every=1,
                         output_dir=str(tmp_path / name))  # fmt: skip
        if name == "stopped":
            with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the machine went away"):
                patch.setattr(training, "RunLog", Broken)
                train_ppo_lora.main(args)
        train_ppo_lora.main(args)
        files = (f"{args.output_dir}/{part}.safetensors" for part in ("adapter_model", "critic"))
        ends.append({name: weight for file in files for name, weight in load_file(file).items()})
    assert "resuming after step 1" in capsys.readouterr().out
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"value_coef": 0.5, "ratio_level": "token"}, True),
        ({"value_coef": 0.5, "ratio_level": "token", "gae_lambda": 1.0}, False),
        ({}, False),
    ],
)
def test_a_critic_that_starts_at_zero_is_warned_of(start, tasks_path, tmp_path, capsys, settings, warns):
    train_ppo_lora.main(arguments(start, tasks_path, tmp_path, ppo_epochs=1, dry_run=True, **settings))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: the critic")]
    assert len(said) == warns
    for line in said:
        assert "arXiv 2503.01491" in line and "--gae_lambda 1," in line and "--critic_warmup N" in line


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dual_clip": 1.0}, "--dual_clip 1.0: must be above 1"),
        ({"critic_warmup": 5}, "--critic_warmup: there is no critic; add --value_coef"),
        ({"critic_warmup": -1}, "must not be negative"),
        ({"critic_warmup": 100, "value_coef": 0.5, "ratio_level": "token"}, "must be less than --num_updates"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        check(Args(**settings))


def test_ratios_that_would_overflow_have_no_gradient_left():
    logprobs = torch.full((1, 256), 0.4).requires_grad_()
    objective = clipped_objective(ratios(logprobs, torch.zeros(1, 256), "sequence"), torch.ones(1, 1), 0.2)
    objective.sum().backward()
    assert objective.item() == pytest.approx(1.2) and logprobs.grad.abs().max() == 0


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_updates_that_are_not_finite_are_skipped_and_end_the_run(
    start, tasks_path, tmp_path, known_run, monkeypatch, level
):
    known_run()
    real = training.Run.outputs
    training_step = []

    def broken(self, samples, **wanted):
        out = real(self, samples, **wanted)
        if torch.is_grad_enabled() and len(training_step) < 2:  # the first two updates
            out.logprobs = out.logprobs * float("nan")
        return out

    def count(self):
        training_step.append(1)
        return real_clip(self)

    real_clip = training.Run.clip_gradients
    monkeypatch.setattr(training.Run, "outputs", broken)
    monkeypatch.setattr(training.Run, "clip_gradients", count)
    args = arguments(start, tasks_path, tmp_path, ratio_level=level, ppo_epochs=2, learning_rate=0.01)
    train_ppo_lora.main(args)
    before, after = (load_file(f"{at}/adapter_model.safetensors") for at in (start, args.output_dir))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert log_of(args)[0]["skipped_updates"] == 2

    training_step.clear()
    monkeypatch.setattr(training.Run, "clip_gradients", real_clip)  # now none is ever finite
    args = arguments(start, tasks_path, tmp_path, ratio_level=level, ppo_epochs=6, output_dir=str(tmp_path / "bad"))
    with pytest.raises(InputError, match="not finite in 5 updates in a row"):
        train_ppo_lora.main(args)
    saved = (tmp_path / "bad.partial" / "nonfinite_batch.jsonl").read_text().splitlines()
    assert len(saved) == 6 and "completion" in json.loads(saved[0])


def test_padding_takes_no_part_in_a_z_score():
    score = z_score(torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]]))
    assert score.tolist() == [[-1.0, 1.0, 0.0]]


def test_minibatches_take_every_row_once_an_epoch():
    samples = [SimpleNamespace(length=3 + i) for i in range(5)]
    whole = Batch(samples, list(range(5)), torch.ones(5, 7), torch.arange(35.0).reshape(5, 7))
    batches = list(whole.minibatches(2, 3))
    assert [len(batch) for batch in batches] == [2, 2, 1] * 3
    assert sorted(itertools.chain(*(batch.rows for batch in batches[:3]))) == [0, 1, 2, 3, 4]
    assert [batch.rows for batch in whole.minibatches(0, 2)] == [[0, 1, 2, 3, 4]] * 2
    for batch in batches:  # each row keeps its tensors, cut to the longest row
        assert batch.reference[:, 0].tolist() == [7.0 * row for row in batch.rows]
        assert batch.reference.shape == batch.mask.shape == (len(batch), 3 + max(batch.rows))
        assert [s.length for s in batch.samples] == [3 + row for row in batch.rows]
