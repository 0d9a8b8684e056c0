"""The reasons for which a broker was not reached or did not let us in, as lines with advice."""

import socket
import ssl

from aiokafka import errors

from contracts.settings import KafkaSettings
from streams.kafka.rebootstrap import BrokerUnreached

AUTH_ERRORS = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)
FORBIDDEN = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)
_SLOW = (errors.RequestTimedOutError, errors.KafkaTimeoutError)
# The errors of a client that was let in, and now does not reach a broker any more.
LOST = (
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.StaleMetadata,
    errors.NoBrokersAvailable,
)
AWAY = (*LOST, *_SLOW, OSError, TimeoutError)


def connect_advice(error: BaseException, brokers: str, kafka: KafkaSettings) -> str:
    """Say in one line why, and after a semicolon what to do. `brokers` are the bootstrap ones."""
    if isinstance(error, BrokerUnreached):
        return _unreached(error, brokers, kafka)
    if isinstance(error, AUTH_ERRORS):
        said = " ".join(str(error).split())
        return (
            f"Kafka at {brokers} refuses user {kafka.sasl_username!r} with "
            f"{kafka.sasl_mechanism} ({said}); check TIDELENS_KAFKA_SASL_USERNAME, "
            "_SASL_PASSWORD and _SASL_MECHANISM"
        )
    if isinstance(error, FORBIDDEN):
        said = " ".join(str(error).split())
        return (
            f"Kafka at {brokers} does not let us do this ({said}); `tidelens topics "
            "print` shows the ACLs that each role needs"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"Kafka at {brokers} shows a certificate that is not trusted "
            f"({error.verify_message}); set TIDELENS_KAFKA_SSL_CAFILE to its CA"
        )
    if isinstance(error, ssl.SSLError):
        return (
            f"Kafka at {brokers} does not speak TLS as we do ({error.reason}); check "
            f"TIDELENS_KAFKA_SECURITY_PROTOCOL, now {kafka.security_protocol}"
        )
    if _hung_up(error):
        return (
            f"Kafka at {brokers} hangs up on us; check the address, and "
            f"TIDELENS_KAFKA_SECURITY_PROTOCOL, now {kafka.security_protocol}"
        )
    return (
        f"no Kafka broker at {brokers} ({connect_failure(error)}); start one with `tidelens up`, "
        "or give the address of yours with --brokers HOST:PORT"
    )


def _unreached(error: BrokerUnreached, brokers: str, kafka: KafkaSettings) -> str:
    """Say that the bootstrap address answered, but named an address that does not answer."""
    address = f"{error.host}:{error.port}"
    if isinstance(error.cause, (*AUTH_ERRORS, ssl.SSLError)) or _hung_up(error.cause):
        named = f"{address}, which {brokers} names for broker {error.node_id},"
        return connect_advice(error.cause, named, kafka)
    if address in (each.strip() for each in brokers.split(",")):
        return (
            f"broker {error.node_id} does not answer at {address} "
            f"({connect_failure(error.cause)}), though another of {brokers} does; "
            "start it again, or look into its log"
        )
    return (
        f"broker {error.node_id} cannot be reached at {address} ({connect_failure(error.cause)}), "
        f"the address that the Kafka at {brokers} names for it; set advertised.listeners of broker "
        f"{error.node_id} to an address that this machine reaches, or make {address} reachable"
    )


def _hung_up(error: BaseException) -> bool:
    of_kafka = isinstance(error, errors.KafkaError) and not isinstance(error, _SLOW)
    return of_kafka or isinstance(error, ConnectionResetError | BrokenPipeError)


def connect_failure(error: BaseException) -> str:
    """Say in a few words why an address did not answer."""
    if isinstance(error, socket.gaierror):
        return "no such host name"
    if isinstance(error, UnicodeError):
        return "not a host name"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (TimeoutError, *_SLOW)):
        return "no answer in time"
    return str(error) or type(error).__name__
