"""The stored run: whole at every moment, restored only when it is what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_ray.storage.mirror import Mirror, complete_checkpoints, restore
from repo_ray.storage.store import StorageError, Store
from repo_ray.training.checkpoints import latest_checkpoint, save_checkpoint

#: Files of a checkpoint beside its manifest.
PARTS = ("policy", "value", "learner/optimizer-0")


def checkpoint(root: Path, step: int, text: str) -> None:
    def write(folder: Path) -> None:
        for part in PARTS:
            (folder / part).parent.mkdir(exist_ok=True)
            (folder / part).write_text(f"{part} {text}")

    save_checkpoint(root / "checkpoints", step, {}, write, keep=2)


def train(root: Path, step: int, text: str = "") -> None:
    """What a run writes by `step`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text("run: {name: r}\n")
    with (root / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\n")
    (root / "trajectories").mkdir(exist_ok=True)
    (root / "trajectories" / f"step-{step:06d}.parquet").write_text(f"{step}")
    (root / "phases.json").write_text(json.dumps({"steps": step}))
    checkpoint(root, step, text or str(step))


def opened(url: str, root: Path, keep: int = 1) -> Mirror:
    mirror = Mirror(Store(url), root, keep)
    mirror.claim()
    return mirror


class Cable:
    """The connection of a store: carries so many changes, then none."""

    def __init__(self, store: Store, changes: int) -> None:
        self.left = changes
        self.written: list[str] = []
        for name in ("write", "delete", "delete_folder"):
            setattr(store, name, self._limited(getattr(store, name)))

    def _limited(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def limited(name: str, *content: Any) -> Any:
            if self.left == 0:
                raise StorageError("the cable is cut")
            self.left -= 1
            if content:
                self.written.append(name)
            return change(name, *content)

        return limited


def text_of(root: Path) -> str:
    """What the newest checkpoint holds; its files belong together."""
    newest = latest_checkpoint(root / "checkpoints")
    assert newest is not None
    (text,) = {(newest.folder / part).read_text().removeprefix(part).strip() for part in PARTS}
    return text


def cut_and_restore(url: str, place: Path, cut: int, replaced: bool) -> None:
    """Uploads step 1, then step 2 over a cable that is cut, and restores what is there."""
    root = place / "run"
    train(root, 1)
    opened(url, root).sync()
    if replaced:  # an earlier attempt at step 2 is stored already, beside step 1
        train(root, 2, "2 of an earlier attempt")
        opened(url, root, keep=2).sync()
    train(root, 2)
    mirror = opened(url, root)
    cable = Cable(mirror.store, cut)
    with suppress(StorageError):
        mirror.sync()

    elsewhere = place / "elsewhere" / "run"
    step = restore(Store(url), elsewhere)
    newest = latest_checkpoint(elsewhere / "checkpoints")
    assert newest is not None
    assert newest.step == step
    arrived = "checkpoints/step-000002/manifest.json" in cable.written
    if arrived:
        assert text_of(elsewhere) == "2"
    else:
        assert text_of(elsewhere) in {"1", "2 of an earlier attempt"} if replaced else {"1"}
    rows = [json.loads(row)["step"] for row in (elsewhere / "metrics.jsonl").open()]
    assert set(range(1, step + 1)) <= set(rows)

    # The cable is mended: everything arrives, and nothing else stays.
    again = opened(url, root)
    again.sync()
    names = again.store.names("checkpoints")
    assert names == sorted(f"checkpoints/step-000002/{name}" for name in (*PARTS, "manifest.json"))
    assert restore(Store(url), place / "third" / "run") == 2


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, 14), replaced=st.booleans())
def test_an_upload_that_stops_anywhere_leaves_a_whole_checkpoint(cut: int, replaced: bool) -> None:
    with TemporaryDirectory() as place:
        cut_and_restore(f"file://{place}/stored", Path(place), cut, replaced)


@pytest.mark.parametrize("cut", [0, 5, 6, 8, 9, 10, 11])
def test_the_same_on_every_kind_of_storage(url: str, tmp_path: Path, cut: int) -> None:
    cut_and_restore(url, tmp_path, cut, replaced=True)


def test_a_restored_run_has_the_files_of_the_run(url: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    train(root, 1)
    train(root, 2)
    for name in ("cluster.json", ".lock", "trajectories/step-000009.partial", ".hidden/x"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("of this machine")
    opened(url, root, keep=2).sync()
    new = tmp_path / "new" / "run"
    assert restore(Store(url), new) == 2
    expected = {
        *("config.yaml", "metrics.jsonl", "phases.json"),
        *(f"trajectories/step-00000{step}.parquet" for step in (1, 2)),
        *(f"checkpoints/step-000002/{part}" for part in (*PARTS, "manifest.json")),
    }
    files = {str(p.relative_to(new)): p for p in new.rglob("*") if p.is_file()}
    assert set(files) == expected
    for name, path in files.items():
        assert path.read_bytes() == (root / name).read_bytes()
    assert [p.name for p in new.parent.iterdir()] == ["run"]


def test_a_run_without_a_checkpoint_is_restored_too(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "models").mkdir(parents=True)
    (root / "models" / "adapter").write_text("a")
    opened(f"file://{tmp_path}/stored", root).sync()
    assert restore(Store(f"file://{tmp_path}/stored"), tmp_path / "new") == 0
    assert (tmp_path / "new" / "models" / "adapter").read_text() == "a"


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "manifest", "escaping"])
def test_a_damaged_object_is_refused_by_name(url: str, tmp_path: Path, damage: str) -> None:
    train(tmp_path / "run", 3)
    opened(url, tmp_path / "run").sync()
    store = Store(url)
    folder = "checkpoints/step-000003"
    value, manifest = f"{folder}/value", f"{folder}/manifest.json"
    if damage == "changed":
        store.write(value, b"valve 3")
    elif damage == "truncated":
        store.write(value, store.read(value)[:-1])
    elif damage == "missing":
        store.delete(value)
    elif damage == "manifest":
        store.write(manifest, store.read(manifest)[:40])
    else:
        store.write(manifest, store.read(manifest).replace(b'"value"', b'"../../value"'))
    expected = {
        "changed": r"step-000003/value: its SHA-256 is not the manifest's",
        "truncated": r"step-000003/value: its SHA-256 is not the manifest's",
        "missing": r"step-000003/value: listed in the manifest, but missing",
        "manifest": r"step-000003/manifest.json: not a readable checkpoint manifest",
        "escaping": r"\.\./\.\./value is not a file of the checkpoint",
    }[damage]
    with pytest.raises(StorageError, match=expected) as caught:
        restore(store, tmp_path / "new" / "run")
    assert "to continue from an older checkpoint" in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_only_what_changed_is_uploaded_again(tmp_path: Path) -> None:
    root = tmp_path / "run"
    train(root, 1)
    mirror = opened(f"file://{tmp_path}/stored", root)
    cable = Cable(mirror.store, 99)
    mirror.sync()
    assert cable.written[-1] == "checkpoints/step-000001/manifest.json"
    files = [name for name in cable.written if not name.startswith("checkpoints/")]
    assert files[-1] == "phases.json"
    cable.written.clear()
    mirror.sync()
    assert cable.written == []
    (root / "metrics.jsonl").write_text("more\n")
    mirror.sync()
    assert cable.written == ["metrics.jsonl"]


def test_a_checkpoint_that_was_damaged_on_disk_is_not_uploaded_as_one(tmp_path: Path) -> None:
    root = tmp_path / "run"
    train(root, 1)
    (root / "checkpoints" / "step-000001" / "value").write_text("damaged")
    mirror = opened(f"file://{tmp_path}/stored", root)
    with pytest.raises(StorageError, match=r"value: its SHA-256 is not the manifest's"):
        mirror.sync()
    assert complete_checkpoints(mirror.store.names()) == []


def test_a_process_that_was_replaced_uploads_nothing_more(url: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    train(root, 1)
    first = opened(url, root)
    first.sync()
    second = opened(url, root)
    train(root, 2)
    with pytest.raises(StorageError, match="another process has taken this run over"):
        first.sync()
    assert complete_checkpoints(first.store.names()) == ["checkpoints/step-000001"]
    second.sync()
    assert complete_checkpoints(first.store.names()) == ["checkpoints/step-000002"]


def test_a_run_is_not_restored_over_another(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/{uuid4().hex}"
    train(tmp_path / "run", 1)
    opened(url, tmp_path / "run").sync()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("keep")
    with pytest.raises(StorageError, match=r"cannot be restored to .*new"):
        restore(Store(url), tmp_path / "new")
    assert (tmp_path / "new" / "mine").read_text() == "keep"
