import importlib.metadata

import pytest

from repo_ray.config.load import validate
from repo_ray.doctor.check import Check
from repo_ray.doctor.judge import judge
from repo_ray.doctor.machine import resources, shared_memory, threads, token_auth, versions
from repo_ray.planning import Cluster

NUMPY = importlib.metadata.version("numpy")


def config(**sections):
    return validate(sections, "test")


def lock(folder, text):
    path = folder / "requirements.lock"
    path.write_text(text)
    return path


def test_versions_name_what_differs_and_what_is_missing(tmp_path):
    none = tmp_path / "none"
    same = lock(tmp_path, f"# comment\nnumpy=={NUMPY} \\\n    --hash=sha256:00\n")
    assert versions(same, none).status == "ok"
    other = versions(lock(tmp_path, "numpy==0.1\n"), none)
    assert other.status == "warn"
    assert f"numpy {NUMPY} (locked: 0.1)" in other.found
    missing = versions(lock(tmp_path, "no-such-package==1\n"), none)
    assert missing.status == "fail"
    assert "no-such-package" in missing.found


def test_a_local_build_of_torch_counts_as_the_pinned_version(tmp_path):
    version = importlib.metadata.version("torch").partition("+")[0]
    pins = lock(tmp_path, f"torch=={version}\n")
    assert versions(tmp_path / "none", pins).status == "ok"


def test_threads_beyond_the_cores_are_named():
    check = threads(config(learner={"threads": 4096}))
    assert check.status == "warn"
    assert "learner" in check.remedy
    assert threads(config(learner={"threads": 1}, rollout={"pool": {"threads": 1}},
                          reward_model={"pool": {"threads": 1}})).status == "ok"  # fmt: skip


def test_small_shared_memory_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 64 * 2**20}))
    check = shared_memory(tmp_path)
    assert check.status == "fail"
    assert "--shm-size" in check.remedy


@pytest.mark.parametrize(
    ("mode", "token", "status"),
    [
        ("token", True, "ok"),
        ("token", False, "fail"),
        ("disabled", True, "warn"),
        (None, True, "warn"),
    ],
)
def test_token_auth_states(tmp_path, monkeypatch, mode, token, status):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("t")
    check = token_auth(tmp_path)
    assert check.status == status
    assert (check.remedy == "") == (status == "ok")


def test_resources_are_those_of_the_plan():
    small = config(model={"max_prompt_tokens": 300}, sampling={"max_new_tokens": 48})
    assert resources(small, Cluster(nodes=1, cpus=8, memory_gib=64)).status == "ok"
    check = resources(small, Cluster(nodes=1, cpus=8, memory_gib=1))
    assert check.status == "fail"
    assert "GiB" in check.found


def test_a_judge_endpoint_that_does_not_answer_fails():
    silent = config(
        judge={
            "kind": "endpoint",
            "base_url": "http://127.0.0.1:9/v1",
            "model": "m",
            "request_timeout_s": 5,
        }
    )
    check = judge(silent)
    assert check.status == "fail"
    assert "127.0.0.1:9" in check.found
    assert judge(config()).status == "ok"


def test_a_check_is_one_line_with_its_remedy():
    assert str(Check("a", "warn", "found", "Do this")).split() == [
        "warn",
        "a",
        "found.",
        "Do",
        "this",
    ]
