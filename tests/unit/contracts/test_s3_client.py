"""The S3 client is opened in one way, and wrong environment variables name the setting at fault."""

from pathlib import Path

import pytest
from blockbuster import BlockBuster

from contracts.errors import ConfigurationError
from contracts.s3_client import s3_client

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_aws_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_blocking_calls: BlockBuster
) -> None:
    for function in no_blocking_calls.functions.values():
        function.can_block_in("aiobotocore/session.py", {"_create_client"})
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


async def test_the_client_has_the_given_limits() -> None:
    async with s3_client("TIDELENS_SNAPSHOTS", connect_s=2, read_s=7, attempts=3) as client:
        config = client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (2, 7)
        assert config.retries == {"mode": "standard", "total_max_attempts": 3}


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_ENDPOINT_URL", "nonsense"), ("AWS_PROFILE", "absent")]
)
async def test_variables_that_make_no_client_name_the_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        ConfigurationError, match=f"^TIDELENS_SNAPSHOTS: no S3 client: .*{value}.*AWS_ variables$"
    ):
        async with s3_client("TIDELENS_SNAPSHOTS", connect_s=2, read_s=7, attempts=3):
            pass
