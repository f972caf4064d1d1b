import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repo_ray.config.load import dump_config, validate
from repo_ray.planning import Cluster, PlanError, read_architecture
from repo_ray.planning.forecast import Setting, forecast
from repo_ray.planning.measured import calibrated, read_run
from repo_ray.planning.speeds import CPU, H100

CORES = Cluster(nodes=1, cpus=2, memory_gib=24)
SETTINGS = {
    "run": {"name": "done", "batch_size": 2},
    "model": {"attention": "eager", "max_prompt_tokens": 400},
    "lora": {"rank": 32, "alpha": 32},
    "sampling": {"max_new_tokens": 64},
    "rollout": {"max_model_len": 512},
}


def row(step, collect, update, push, **more):
    return {
        "step": step,
        "batch/size": 2,
        "tokens": 60.0,
        "tokens_total": 460.0,
        "skipped": "",
        "time/collect_s": collect,
        "time/update_s": update,
        "time/push_s": push,
        **more,
    }


def run_folder(folder: Path, rows, **run) -> Path:
    settings = {**SETTINGS, "run": {**SETTINGS["run"], **run}}
    (folder / "config.yaml").write_text(dump_config(validate(settings, "test")))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "trajectories").mkdir()
    for number in range(len(rows)):
        lengths = (10 + number, 50 + number)
        table = pa.table({"token_ids": [[0] * length for length in lengths]})
        pq.write_table(table, folder / "trajectories" / f"step-{number:06d}.parquet")
    return folder


ROWS = [row(1, 90, 90, 90), row(2, 3, 8, 0.5), row(3, 5, 10, 0.7), row(4, 4, 30, 0.6)]


def predict(measured, speeds):
    architecture = read_architecture("smollm2-135m")
    return forecast(Setting(measured.config, architecture, CORES, speeds, measured.load))


def test_medians_leave_out_the_first_step_and_lengths_are_the_runs_own(tmp_path):
    measured = read_run(run_folder(tmp_path, ROWS))
    assert (measured.collect_s, measured.update_s, measured.push_s) == (4, 10, 0.6)
    assert measured.step_s == 15.7  # of 11.5, 15.7 and 34.6: not the sum of the medians
    assert (measured.load.prompt, measured.load.reply) == (200, 30)
    assert measured.load.longest == 52  # of 51, 52 and 53
    assert measured.steps == 3


def test_skipped_updates_do_not_count(tmp_path):
    rows = [*ROWS, row(5, 4, 0.1, 0.6) | {"skipped": "non-finite gradient"}]
    assert read_run(run_folder(tmp_path, rows)).steps == 3


def test_fitted_speeds_predict_the_run_that_they_come_from(tmp_path):
    measured = read_run(run_folder(tmp_path, ROWS))
    fitted = calibrated(CPU, measured, predict(measured, CPU))
    predicted = predict(measured, fitted)
    assert predicted.collect_s == pytest.approx(4)
    assert predicted.update_s == pytest.approx(10)
    assert predicted.push_s == pytest.approx(0.6)
    assert "fitted to the run done" in fitted.origin


def test_with_staleness_only_whole_steps_are_compared(tmp_path):
    rows = [r | {"time/step_s": 6.5} for r in ROWS]
    measured = read_run(run_folder(tmp_path, rows, staleness=1))
    assert set(measured.errors(predict(measured, CPU))) == {"step"}
    assert measured.step_s == 6.5
    with pytest.raises(PlanError, match="staleness 0"):
        calibrated(CPU, measured, predict(measured, CPU))


def test_a_gpu_run_is_not_fitted(tmp_path):
    measured = read_run(run_folder(tmp_path, ROWS))
    with pytest.raises(PlanError, match="share cores"):
        calibrated(H100, measured, predict(measured, CPU))


@pytest.mark.parametrize(
    ("rows", "run", "words"),
    [
        (ROWS[:1], {}, "no step after the first"),
        (ROWS, {"staleness": 1}, "time/step_s"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path, rows, run, words):
    with pytest.raises(PlanError, match=words):
        read_run(run_folder(tmp_path, rows, **run))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(PlanError, match="not a run folder"):
        read_run(tmp_path)
    folder = run_folder(tmp_path, ROWS)
    (folder / "trajectories/step-000002.parquet").unlink()
    with pytest.raises(PlanError, match=r"step-000002\.parquet: cannot be read"):
        read_run(folder)
