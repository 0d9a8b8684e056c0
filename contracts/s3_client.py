"""The client of S3, or of anything that speaks its protocol: one way to open it for all rooms.

Credentials, region and endpoint come from the standard AWS variables and files, as every AWS tool
reads them (AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_S3 for another server).
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from contracts.errors import ConfigurationError


@asynccontextmanager
async def s3_client(
    setting: str, *, connect_s: float, read_s: float, attempts: int
) -> AsyncIterator[Any]:
    """Yield a client, which asks for nothing yet and is closed at the end of the block.

    `setting` names the variable that makes the client necessary. A request ends after `connect_s`
    seconds without a connection, or `read_s` without a byte, and is sent `attempts` times at most.
    Raises ConfigurationError where the AWS variables and files make no client.
    """
    config = AioConfig(
        connect_timeout=connect_s,
        read_timeout=read_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )
    async with AsyncExitStack() as stack:
        try:
            # This reads botocore's service descriptions from disk, on the loop: 0.2 s, only at the
            # start.
            opening = get_session().create_client("s3", config=config)
            client = await stack.enter_async_context(opening)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"{setting}: no S3 client: {error}; check the AWS_ variables"
            ) from error
        yield client


def error_code(error: ClientError) -> str:
    """Return S3's code of an error, such as NoSuchKey; empty where the answer has none."""
    return str(error.response.get("Error", {}).get("Code", ""))
