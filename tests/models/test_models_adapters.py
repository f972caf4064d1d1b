import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load, save
from transformers import LlamaConfig, LlamaForCausalLM

from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import (
    activate,
    adapter_digest,
    adapter_layers,
    adapter_parameters,
    add_adapters,
    build_blob,
    computing,
    export_adapter,
    import_adapter,
    merge_weight,
    parse_adapter,
    save_adapter,
)

SHAPE = LoraShape(rank=4, alpha=8)
TOKENS = torch.arange(24).view(2, 12)


def tiny_base(dtype=torch.float32):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(dtype).requires_grad_(False).eval()


def disturb(model, *names):
    """Gives the adapters an effect: freshly made ones have B = 0."""
    with torch.no_grad():
        for name in names:
            for parameter in adapter_parameters(model, name):
                parameter.normal_(0, 0.2)


@pytest.fixture
def model():
    model = add_adapters(tiny_base(), ["policy", "value"], SHAPE)
    disturb(model, "policy", "value")
    return model


def logits(model, adapter):
    with torch.no_grad(), computing(model, adapter):
        return model(input_ids=TOKENS).logits


def test_new_adapters_are_float32_trainable_and_without_effect():
    base = tiny_base(torch.bfloat16)
    with torch.no_grad():
        expected = base(input_ids=TOKENS).logits
    model = add_adapters(base, ["policy", "value"], SHAPE)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 2 * 7 * 2  # layers, adapters, targets, matrices
    assert all("lora_" in n and p.dtype == torch.float32 for n, p in trainable.items())
    assert torch.equal(logits(model, "policy"), expected)


def test_switching_changes_the_forward_pass_and_no_gradient_flag(model):
    policy, value, base = (logits(model, name) for name in ("policy", "value", None))
    assert not torch.allclose(policy, value)
    assert not torch.allclose(policy, base)
    torch.testing.assert_close(base, tiny_base()(input_ids=TOKENS).logits)
    torch.testing.assert_close(logits(model, "policy"), policy)
    assert sum(p.requires_grad for p in model.parameters()) == 56


def test_both_adapters_get_gradients_in_one_backward(model):
    loss = 0
    for name in ("policy", "value"):
        with computing(model, name):
            loss = loss + model(input_ids=TOKENS).logits.square().mean()
    loss.backward()
    for name in ("policy", "value"):
        assert all(p.grad is not None and p.grad.any() for p in adapter_parameters(model, name))
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_low_precision_base_computes_low_and_learns_in_float32():
    model = add_adapters(tiny_base(torch.bfloat16), ["policy"], SHAPE)
    disturb(model, "policy")
    with computing(model, "policy"):
        out = model(input_ids=TOKENS).logits
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    assert {p.grad.dtype for p in adapter_parameters(model, "policy")} == {torch.float32}


def test_unknown_adapter_is_named(model):
    with pytest.raises(KeyError, match="judge"):
        activate(model, "judge")
    with pytest.raises(KeyError, match="judge"):
        adapter_layers(model, "judge")


def test_blob_keys_and_metadata(model):
    blob = export_adapter(model, "policy")
    tensors = load(blob)
    assert tensors["model.layers.0.self_attn.q_proj.lora_A.weight"].shape == (4, 16)
    assert tensors["model.layers.1.mlp.down_proj.lora_B.weight"].shape == (16, 4)
    assert len(tensors) == 28
    size = int.from_bytes(blob[:8], "little")
    assert json.loads(blob[8 : 8 + size])["__metadata__"] == {
        "format": "repo_ray.adapter/1",
        "rank": "4",
        "alpha": "8",
    }


def test_export_import_round_trip(model):
    blob = export_adapter(model, "policy")
    other = add_adapters(tiny_base(), ["reward"], SHAPE)
    import_adapter(other, "reward", blob)
    assert adapter_digest(export_adapter(other, "reward")) == adapter_digest(blob)
    torch.testing.assert_close(logits(other, "reward"), logits(model, "policy"))


def test_digest_ignores_file_order_and_sees_every_change(model):
    blob = export_adapter(model, "policy")
    tensors = load(blob)
    metadata = {"format": "repo_ray.adapter/1", "rank": "4", "alpha": "8"}
    reordered = save({**{"x": torch.zeros(1)}, **dict(reversed(tensors.items()))}, metadata)
    with pytest.raises(ValueError, match="unexpected tensor 'x'"):
        adapter_digest(reordered)
    assert adapter_digest(save(dict(reversed(tensors.items())), metadata)) == adapter_digest(blob)
    assert adapter_digest(save(tensors, {**metadata, "alpha": "4"})) != adapter_digest(blob)
    key = "model.layers.1.mlp.up_proj.lora_B.weight"
    tensors[key] = tensors[key].clone()
    tensors[key][0, 0] = torch.nextafter(tensors[key][0, 0], torch.tensor(9.0))
    assert adapter_digest(save(tensors, metadata)) != adapter_digest(blob)


@given(
    rank=st.integers(1, 5),
    alpha=st.integers(1, 9),
    sizes=st.dictionaries(
        st.from_regex(r"[a-z]{1,4}(\.[a-z0-9_]{1,5}){0,2}", fullmatch=True),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        min_size=1,
        max_size=4,
    ),
)
def test_parse_is_the_inverse_of_build(rank, alpha, sizes):
    tensors = {}
    for module, (inner, outer) in sizes.items():
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, inner)
        tensors[f"{module}.lora_B.weight"] = torch.randn(outer, rank)
    adapter = parse_adapter(build_blob(tensors, rank, alpha))
    assert (adapter.rank, adapter.alpha, adapter.scale) == (rank, alpha, alpha / rank)
    assert adapter.modules.keys() == sizes.keys()
    for module, (a, b) in adapter.modules.items():
        assert torch.equal(a, tensors[f"{module}.lora_A.weight"])
        assert torch.equal(b, tensors[f"{module}.lora_B.weight"])


@given(st.binary(max_size=200))
def test_garbage_is_refused(blob):
    with pytest.raises(ValueError, match="adapter blob"):
        parse_adapter(blob)


GOOD = {"m.lora_A.weight": torch.zeros(2, 3), "m.lora_B.weight": torch.zeros(4, 2)}
META = {"format": "repo_ray.adapter/1", "rank": "2", "alpha": "2"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (GOOD, {**META, "format": "pt"}, "format is 'pt'"),
        (GOOD, {**META, "rank": "-1"}, "positive integers"),
        (GOOD, {**META, "rank": "3"}, r"expected \[3, in\]"),
        ({"m.lora_A.weight": GOOD["m.lora_A.weight"]}, META, "m lacks lora_B"),
        ({k: v.half() for k, v in GOOD.items()}, META, "expected float32"),
        ({}, META, "no tensors"),
    ],
)
def test_faulty_blobs_are_named(tensors, metadata, message):
    with pytest.raises(ValueError, match=message):
        parse_adapter(save(tensors, metadata))


def test_import_refuses_what_does_not_fit_and_changes_nothing(model):
    before = adapter_digest(export_adapter(model, "policy"))
    tensors = load(export_adapter(model, "policy"))
    key = "model.layers.1.mlp.down_proj"
    missing = {k: v for k, v in tensors.items() if not k.startswith(key)}
    wider = {**tensors, f"{key}.lora_A.weight": torch.zeros(4, 99)}
    for changed, rank, message in (
        (missing, 4, "down_proj"),
        (wider, 4, r"\(4, 99\)"),
        (
            {**tensors, "z.lora_A.weight": torch.zeros(4, 1), "z.lora_B.weight": torch.zeros(1, 4)},
            4,
            "'z'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            import_adapter(model, "policy", build_blob(changed, rank, 8))
    with pytest.raises(ValueError, match="alpha 16"):
        import_adapter(model, "policy", build_blob(tensors, 4, 16))
    assert adapter_digest(export_adapter(model, "policy")) == before


def test_merged_weights_compute_what_the_adapter_does(model):
    adapter = parse_adapter(export_adapter(model, "policy"))
    merged = tiny_base()
    with torch.no_grad():
        for path, (a, b) in adapter.modules.items():
            weight = merged.get_submodule(path).weight
            weight.copy_(merge_weight(weight, a, b, adapter.scale))
    torch.testing.assert_close(merged(input_ids=TOKENS).logits, logits(model, "policy"))


def test_merge_is_float32_math_in_the_base_type():
    w0 = torch.full((2, 2), 1.0).bfloat16()
    a, b = torch.tensor([[0.5, 0.25]]), torch.tensor([[2.0], [4.0]])
    merged = merge_weight(w0, a, b, 0.5)
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [[1.5, 1.25], [2.0, 1.5]]
    assert w0.tolist() == [[1, 1], [1, 1]]


def test_a_merge_into_bf16_keeps_a_small_update_in_the_mean():
    """A hundredth of what lies between two bf16 numbers: one element in a hundred moves by all."""
    w0 = torch.ones(200, 300).bfloat16()
    gap = 2**-7
    merged = merge_weight(w0, torch.ones(1, 300), torch.full((200, 1), gap / 100), 1.0)
    assert set(merged.float().unique().tolist()) == {1.0, 1 + gap}
    assert float((merged.float() - 1).mean()) == pytest.approx(gap / 100, rel=0.05)


def test_saved_folder_loads_with_peft(model, tmp_path):
    save_adapter(tmp_path / "adapter", export_adapter(model, "policy"), "some/base")
    loaded = PeftModel.from_pretrained(tiny_base(), str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=TOKENS).logits, logits(model, "policy"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["base_model_name_or_path"] == "some/base"
    assert config["modules_to_save"] is None
    assert not config["use_dora"]
