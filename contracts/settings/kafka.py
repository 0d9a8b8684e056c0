"""Settings of the connections to Kafka."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from contracts.settings.bounds import Secret, Text
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic


class KafkaSettings(EnvironmentSettings):
    """Settings of every Kafka client, that of Faust included: TIDELENS_KAFKA_*."""

    model_config = SettingsConfigDict(env_prefix="TIDELENS_KAFKA_")

    security_protocol: Basic[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]] = Field(
        "PLAINTEXT",
        description="Kafka's security.protocol: whether the connection is encrypted (SSL) and "
        "whether clients log in (SASL).",
    )
    sasl_mechanism: Basic[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]] = Field(
        "PLAIN", description="Kafka's sasl.mechanism. It counts with SASL only."
    )
    sasl_username: Basic[Text | None] = Field(
        None, description="User name for SASL. The protocols with SASL require it."
    )
    sasl_password: Basic[Secret | None] = Field(
        None, description="Password for SASL. The protocols with SASL require it."
    )
    ssl_cafile: Basic[Path | None] = Field(
        None,
        description="File with the certificates of the authorities to trust (PEM). If it is "
        "unset, the system's authorities are trusted.",
    )
    ssl_certfile: Path | None = Field(
        None,
        description="File with the client's certificate (PEM), where the broker asks for one.",
    )
    ssl_keyfile: Path | None = Field(
        None, description="File with the private key of the client's certificate (PEM)."
    )
    ssl_password: Secret | None = Field(
        None, description="Password of the client's private key, where that is encrypted."
    )
    client_id: str = Field(
        "tidelens",
        max_length=255,
        description="Kafka's client.id, which appears in the broker's logs and quotas.",
    )
