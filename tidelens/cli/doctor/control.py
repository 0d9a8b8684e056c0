"""The records of the control topic that nodes ignore."""

from collections.abc import Sequence

from contracts.errors import BrokerUnavailable, ConfigurationError, TopicMismatch
from contracts.events.control_record import UNKNOWN_KEY
from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.broker_address import broker_address
from tidelens.cli.doctor.finding import Finding, ok, skipped, warning

# A topic that somebody filled may have thousands.
_SHOWN_MAX = 5


async def control(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Return the ignored records of the control topic that no good one has replaced."""
    from streams.kafka.connection import KafkaConnection
    from tidelens.cli.base.served_space import ask_control

    brokers, _ = await broker_address(settings)
    if brokers is None:
        return [skipped("control", "no broker is set, and no `tidelens up` runs")]
    try:
        found = await ask_control(settings, KafkaConnection(brokers, kafka))
    except TopicMismatch:
        return [skipped("control", "there is no control topic")]
    except (BrokerUnavailable, ConfigurationError):
        return [skipped("control", "no broker to ask, or it does not let us")]
    if not found.refused:
        return [ok("control", "every record of the control topic is followed")]
    return [
        warning("control", f"ignored: {one}", fix=_fix(one.fault))
        for one in found.refused[:_SHOWN_MAX]
    ]


def _fix(fault: str) -> str:
    repair = "tidelens control repair"
    return f"{repair} --unknown-keys" if fault == UNKNOWN_KEY else repair
