"""A tiny model with a real tokenizer, a run folder as the pipeline writes it, and what comes out."""

import shlex

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from repo_ray.config import dump_config
from repo_ray.config.load import validate
from repo_ray.config.settings import LoraShape
from repo_ray.models.adapters import (
    adapter_parameters,
    add_adapters,
    computing,
    export_adapter,
)
from repo_ray.models.loading import load_base, load_tokenizer, resolve_model
from repo_ray.records import Message
from repo_ray.serving.export import export_run
from repo_ray.serving.run_models import RunFolderError, at_step, open_run
from repo_ray.serving.speaker import Speaker
from repo_ray.training.checkpoints import REWARD, save_checkpoint

IDS = torch.tensor([[5, 17, 42, 7, 99, 3]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = load_tokenizer(resolve_model("smollm2-135m"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def blob_of(base, seed):
    model = add_adapters(
        load_base(base, torch.float32, "eager"), ["policy"], LoraShape(rank=4, alpha=8)
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model, "policy"):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    with torch.no_grad(), computing(model, "policy"):
        logits = model.get_base_model()(IDS).logits
    return export_adapter(model, "policy"), logits


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "demo"
    config = validate(
        {
            "run": {"name": "demo"},
            "model": {"path": str(base), "dtype": "float32", "attention": "eager"},
            "lora": {"rank": 4, "alpha": 8},
            "sampling": {"max_new_tokens": 8},
        },
        "test",
    )
    warm, _ = blob_of(base, 1)
    repo, logits = blob_of(base, 2)
    for folder, blob in ((root / "models/warm_start", warm), (root / "adapters/policy", repo)):
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").write_bytes(blob)
    (root / "config.yaml").write_text(dump_config(config))
    return root, logits


def test_peft_loads_the_exported_adapter(run, base, tmp_path):
    root, logits = run
    lines = export_run(open_run(root), "repo", base, tmp_path / "out", merged=False)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits, atol=1e-5, rtol=1e-4)
    words = shlex.split(lines.vllm_serve)
    assert words[:3] == ["vllm", "serve", str(base)]
    assert f"demo={(tmp_path / 'out').resolve()}" in words
    assert lines.vllm_serve in (tmp_path / "out/README.md").read_text()


def test_transformers_loads_the_merged_model(run, base, tmp_path):
    root, logits = run
    export_run(open_run(root), "repo", base, tmp_path / "out", merged=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits, atol=1e-5, rtol=1e-4)
    assert load_tokenizer(tmp_path / "out").chat_template
    assert model.config.use_cache
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nbase_model:")


def test_a_kept_checkpoint_is_exported_by_its_step(run, base, tmp_path):
    root, _ = run
    blob, logits = blob_of(base, 3)

    def write(folder):
        (folder / "policy.safetensors").write_bytes(blob)

    for step, reward in ((10, 0.9), (20, 0.5)):
        save_checkpoint(root / "checkpoints", step, {REWARD: reward}, write, keep=1)
    export_run(at_step(open_run(root), 10), "repo", base, tmp_path / "best", merged=False)
    peft = PeftModel.from_pretrained(load_base(base, torch.float32, "eager"), tmp_path / "best")
    with torch.no_grad():
        torch.testing.assert_close(peft(IDS).logits, logits, atol=1e-4, rtol=1e-3)
    with pytest.raises(RunFolderError, match=r"kept: 10, 20 \(highest reward: 10\)"):
        at_step(open_run(root), 15)


def test_export_refuses_a_full_folder_and_a_missing_adapter(run, base, tmp_path):
    root, _ = run
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="not empty"):
        export_run(open_run(root), "repo", base, tmp_path, merged=False)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text((root / "config.yaml").read_text())
    with pytest.raises(RunFolderError, match="no adapter 'repo'"):
        export_run(open_run(bare), "repo", base, tmp_path / "out", merged=False)
    with pytest.raises(RunFolderError, match="not a run folder"):
        open_run(tmp_path / "nothing")


def test_each_stage_speaks_with_its_own_weights(run, base, tmp_path):
    root, _ = run
    models = open_run(root)
    assert models.stages == ("base", "warm", "repo")
    speaker = Speaker(models, base)
    messages = [Message("user", "What can you offer?")]
    replies = {stage: speaker.reply(stage, messages, greedy=True) for stage in models.stages}
    assert len(set(replies.values())) == 3
    # The adapter in use is the exported one, and switching back and forth leaves no trace.
    export_run(models, "repo", base, tmp_path / "out", merged=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What can you offer?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )["input_ids"]
    tokens = merged.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert replies["repo"] == tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert speaker.reply("base", messages, greedy=True) == replies["base"]
