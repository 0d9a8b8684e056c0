"""Kafka's jars: fetched once from Maven Central by jgo's resolver, then read from a cache.

The second start uses neither the network nor jgo: a list of the jars with their sizes lies beside
them. The list is written last, so that a half-fetched cache is never taken for a complete one.
"""

import logging
import os
from pathlib import Path

import orjson
from filelock import FileLock

from contracts.atomic_write import atomic_write
from contracts.errors import BrokerUnavailable, ConfigurationError
from contracts.user_folders import make_private, user_cache_dir

KAFKA_VERSION = "4.1.1"
# All named: left to itself the resolver picks kafka-clients 3.8.0, and the broker then dies with
# NoSuchMethodError.
_COORDINATES = "+".join(
    [
        *(
            f"org.apache.kafka:{name}:{KAFKA_VERSION}"
            for name in (
                "kafka_2.13",
                "kafka-clients",
                "kafka-tools",
                "kafka-server-common",
                "kafka-metadata",
            )
        ),
        "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
    ]
)


def kafka_classpath() -> str:
    """Return the class path of Kafka's broker and tools; the first call downloads 54 MB and blocks.

    Raises BrokerUnavailable when the jars are not here and cannot be downloaded, and
    ConfigurationError when the user's cache folder cannot be written.
    """
    root = user_cache_dir() / f"kafka-{KAFKA_VERSION}"
    found = _listed(root)
    if found is None:
        try:
            found = _fetched(root)
        except OSError as error:
            raise ConfigurationError(
                f"XDG_CACHE_HOME: Kafka's jars cannot be kept in {root}: {error.strerror}; make it "
                "writable or set another folder"
            ) from error
    return os.pathsep.join(found)


def _fetched(root: Path) -> list[str]:
    make_private(root)
    # Two starts at once: one downloads, the other waits and then finds the list.
    with FileLock(root / "lock", fallback_to_soft=False):
        return _listed(root) or _download(root)


def _listed(root: Path) -> list[str] | None:
    """Return the jars of a complete cache, or None."""
    try:
        listed = orjson.loads((root / "jars.json").read_bytes())
        whole = all((root / name).stat().st_size == size for name, size in listed.items())
    except (OSError, ValueError):
        return None
    return [str(root / name) for name in listed] if whole else None


def _download(root: Path) -> list[str]:
    from jgo.env import EnvironmentBuilder
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    try:
        context = MavenContext(repo_cache=root / "repository", timeout=60)
        builder = EnvironmentBuilder(context, cache_dir=root / "environment")
        jars = [Path(jar) for jar in builder.from_endpoint(_COORDINATES).all_jars]
    except Exception as error:  # the resolver raises many types; each means "not available"
        raise BrokerUnavailable(
            f"Apache Kafka {KAFKA_VERSION} cannot be fetched ({type(error).__name__}: {error}); "
            "connect to the network once, or name your cluster with --brokers"
        ) from error
    listed = {os.path.relpath(jar, root): jar.stat().st_size for jar in jars}
    atomic_write(root / "jars.json", orjson.dumps(listed))
    return [str(jar) for jar in jars]
