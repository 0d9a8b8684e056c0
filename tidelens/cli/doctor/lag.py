"""The processes that work on the collection, and the transactions that hold its records back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from contracts.errors import BrokerUnavailable, ConfigurationError, ModelMissing, TopicMismatch
from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.broker_address import broker_address
from tidelens.cli.doctor.finding import Finding, ok, skipped, warning
from tidelens.cli.doctor.model import space_here
from tidelens.process.threads import in_daemon_thread
from tidelens.runtime.run_file import model_of

if TYPE_CHECKING:
    from tidelens.cli.base.lag_measurement import LagReport

# The lines of each check; a broker in trouble could give thousands.
_SHOWN_MAX = 10


async def lag(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Find open transactions that hold records back, missing encoders, and nodes of one name."""
    from streams.kafka.connection import KafkaConnection
    from tidelens.cli.base.lag_measurement import measure_lag

    brokers, _ = await broker_address(settings)
    if brokers is None:
        return [skipped("lag", "no broker is set, and no `tidelens up` runs")]
    try:
        if await space_here(await in_daemon_thread(lambda: model_of(settings))) is None:
            return [skipped("lag", "no model, and its space names the groups")]
        measured = await measure_lag(settings, KafkaConnection(brokers, kafka), asked=False)
    except ModelMissing:
        return [skipped("lag", "no model, and its space names the groups")]
    except TopicMismatch:
        return [skipped("lag", "some topics are missing")]
    except (BrokerUnavailable, ConfigurationError):
        return [skipped("lag", "no broker to ask, or it does not let us")]
    findings = [*_held_back(measured, brokers), *_unattended(measured), *_shared(measured)]
    return findings or [ok("lag", _summary(measured))]


def _held_back(measured: "LagReport", brokers: str) -> list[Finding]:
    return [
        warning(
            "lag",
            f"{row.topic} partition {row.partition}: the last stable offset stands at {row.end} "
            f"for {row.unstable_seconds:.0f} s, {row.unstable} records wait behind an open "
            "transaction",
            fix=f"kafka-transactions.sh --bootstrap-server {brokers} describe-producers --topic "
            f"{row.topic} --partition {row.partition}, which names the producer to end",
        )
        for row in measured.held_back[:_SHOWN_MAX]
    ]


def _unattended(measured: "LagReport") -> list[Finding]:
    """Nobody is missed before the first start, when nothing waits and no node serves."""
    waits = {row.space for row in measured.rows if row.role == "encode" and row.waiting}
    return [
        warning(
            "lag",
            f"nobody encodes space {space}: group {group} has no members",
            fix="tidelens encode",
        )
        for space, group in measured.unattended
        if space in waits or (space == measured.space and measured.indexed)
    ]


def _shared(measured: "LagReport") -> list[Finding]:
    return [
        warning(
            "lag",
            f"{members} nodes run as {group}, or one was killed a moment ago",
            fix="a TIDELENS_REPLICA of its own for each node",
        )
        for group, members in measured.shared[:_SHOWN_MAX]
    ]


def _summary(measured: "LagReport") -> str:
    behind = "not known" if measured.behind_s is None else f"{measured.behind_s:.1f} s"
    gone = f"; index groups without a node: {len(measured.gone)}" if measured.gone else ""
    return f"space {measured.space}: behind {behind}{gone}"
