"""An S3-compatible server in this process, and run folders to store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from repo_ray.storage import store

KINDS = ("file", "s3", "fsspec")


@pytest.fixture(autouse=True, scope="module")
def _short_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PAUSES_S", (0.01, 0.01))
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """host:port of a moto server."""
    moto = pytest.importorskip("moto.server", reason="moto[s3], flask, flask-cors: the extra dev")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def s3_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as a run gets them: by the environment."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3_server: str, s3_keys: None) -> str:
    """The name of a new bucket on the server."""
    import boto3

    name = f"bucket-{uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=f"http://{s3_server}").create_bucket(Bucket=name)
    return name


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on each kind of storage."""
    if request.param == "file":
        return f"file://{tmp_path}/stored"
    if request.param == "fsspec":
        return f"fsspec+memory://{uuid4().hex}/stored"
    server, bucket = (request.getfixturevalue(name) for name in ("s3_server", "bucket"))
    return f"s3://{bucket}/stored?scheme=http&endpoint_override={server}"
