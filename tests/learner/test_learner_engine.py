import math

import pytest
import torch
from torch import nn

from repo_ray.learner.engine import EngineSettings, ParameterGroup, Rank, build_engine

X = torch.linspace(-1, 1, 24).view(6, 4)


class Towers(nn.Module):
    """A frozen bfloat16 layer under two trainable towers that take turns in the forward pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(4, 8).bfloat16().requires_grad_(False)
        self.left = nn.Linear(8, 3)
        self.right = nn.Linear(8, 1)

    def forward(self, x, side):
        hidden = self.base(x.bfloat16()).float()
        return getattr(self, side)(hidden).square().sum() * (1.0 if side == "left" else 40.0)


def groups(module, limit=1.0, lr=0.01):
    return [
        ParameterGroup("left", list(module.left.parameters()), lr, limit),
        ParameterGroup("right", list(module.right.parameters()), 2 * lr, 2 * limit),
    ]


def make(stage, warmup=0):
    module = Towers()
    settings = EngineSettings(stage, weight_decay=0.1, warmup_steps=warmup)
    return build_engine(module, groups(module), settings)


def run(engine, steps):
    done = []
    for k in range(steps):
        for part in X[k % 2 :].split(2):
            for side in ("left", "right"):
                engine.backward(engine(part, side))
        done.append(engine.step())
    return done


def weights(engine):
    parameters = [p for p in engine.module.parameters() if p.requires_grad]
    with engine.full_parameters(parameters):
        return [p.detach().clone() for p in parameters]


def reference(steps):
    """The same training in plain PyTorch."""
    module = Towers()
    sides = {"left": (module.left, 0.01, 1.0), "right": (module.right, 0.02, 2.0)}
    optimizer = torch.optim.AdamW(
        [{"params": list(m.parameters()), "lr": lr} for m, lr, _ in sides.values()],
        weight_decay=0.1,
    )
    norms = []
    for k in range(steps):
        optimizer.zero_grad()
        for part in X[k % 2 :].split(2):
            for side in sides:
                module(part, side).backward()
        norms.append(
            {
                side: float(nn.utils.clip_grad_norm_(m.parameters(), limit))
                for side, (m, _, limit) in sides.items()
            }
        )
        optimizer.step()
    return norms, [p.detach() for p in module.parameters() if p.requires_grad]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_trains_like_plain_pytorch_with_clipping_per_group(stage):
    engine = make(stage)
    done = run(engine, 4)
    norms, expected = reference(4)
    for step, norm in zip(done, norms, strict=True):
        assert step.grad_norms == pytest.approx(norm, rel=1e-4)
        assert step.skipped == ""
    assert norms[0]["right"] > 2.0  # the clip did something
    for got, want in zip(weights(engine), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert engine.module.base.weight.dtype == torch.bfloat16
    assert engine.steps == 4


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_with_a_non_finite_gradient_leaves_no_trace(stage):
    engine = make(stage)
    run(engine, 1)
    before, state = weights(engine), engine.state()
    engine.backward(engine(X, "left"))
    engine.backward(engine(X, "right") * math.nan)
    step = engine.step()
    assert step.skipped == "non-finite gradient"
    assert engine.steps == 1
    for got, want in zip(weights(engine), before, strict=True):
        assert torch.equal(got, want)
    after = engine.state()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[k], state[k]) for k in state)
    # And the next step sees nothing of it.
    clean = make(stage)
    run(clean, 1)
    for e in (engine, clean):
        e.backward(e(X, "left"))
        e.backward(e(X, "right"))
        e.step()
    for got, want in zip(weights(engine), weights(clean), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_restored_state_continues_bit_for_bit(stage):
    engine = make(stage, warmup=3)
    run(engine, 2)
    saved, state = weights(engine), engine.state()
    run(engine, 2)

    other = make(stage, warmup=3)
    run(other, 1)  # so that there is something to overwrite
    parameters = [p for p in other.module.parameters() if p.requires_grad]
    with other.full_parameters(parameters, write=True), torch.no_grad():
        for parameter, value in zip(parameters, saved, strict=True):
            parameter.copy_(value)
    other.load_state(state)
    assert other.steps == 2
    run(other, 2)
    for got, want in zip(weights(other), weights(engine), strict=True):
        assert torch.equal(got, want)


def test_state_of_another_stage_is_refused():
    engine = make(2)
    run(engine, 1)
    with pytest.raises(ValueError, match="ZeRO stage"):
        make(0).load_state(engine.state())
    state = {k: v for k, v in engine.state().items() if not k.startswith("right")}
    with pytest.raises(ValueError, match="right"):
        make(2).load_state(state)


def test_warm_up_is_linear_and_counts_applied_steps():
    engine = make(2, warmup=4)
    run(engine, 2)
    engine.backward(engine(X, "left") * math.nan)
    assert engine.step().lrs == pytest.approx({"left": 0.0075, "right": 0.015})
    lrs = [step.lrs["left"] for step in run(engine, 3)]
    assert lrs == pytest.approx([0.0075, 0.01, 0.01])


def test_misplaced_parameters_are_named():
    module = Towers()
    with pytest.raises(ValueError, match=r"right\.weight is trainable but in no"):
        build_engine(module, groups(module)[:1])
    module = Towers()
    module.left.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"left\.weight is frozen"):
        build_engine(module, groups(module))
    module = Towers()
    module.left.bfloat16()
    with pytest.raises(ValueError, match=r"left\.weight is torch.bfloat16"):
        build_engine(module, groups(module))


def test_several_ranks_need_a_port(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match="master_port"):
        build_engine(Towers(), [], rank=Rank(0, 2))
