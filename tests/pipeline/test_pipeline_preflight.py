"""What can be refused before a run starts, is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_rules_file_that_ends_its_process_does_not_end_the_run_as_finished(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text("import os; os._exit(0)")
    (tmp_path / "rules.yaml").write_text("rules: [{id: x, points: -1, file: mine.py}]")
    code = (
        "from pathlib import Path; from repo_ray.pipeline.run import run;"
        f"raise SystemExit(run(None, ['rules.path={tmp_path}/rules.yaml', 'judge.enabled=false',"
        f" 'run.dir={tmp_path}'], False, None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: {tmp_path}/rules.yaml: the rules ended the process" in done.stderr
