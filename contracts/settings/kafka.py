"""How every Kafka client connects."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from contracts.environment import FromEnvironment
from contracts.settings.bounds import Secret, Text


class KafkaSettings(FromEnvironment):
    """How every Kafka client connects, Faust's included: TIDELENS_KAFKA_*."""

    model_config = SettingsConfigDict(
        env_prefix="TIDELENS_KAFKA_", frozen=True, allow_inf_nan=False
    )

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Kafka's security.protocol."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="Kafka's sasl.mechanism."
    )
    sasl_username: Text | None = Field(None, description="User name for SASL.")
    sasl_password: Secret | None = Field(None, description="Password for SASL.")
    ssl_cafile: Path | None = Field(
        None, description="File with the certificates of the authorities to trust (PEM)."
    )
    ssl_certfile: Path | None = Field(None, description="File with the client's certificate (PEM).")
    ssl_keyfile: Path | None = Field(None, description="File with the client's private key (PEM).")
    ssl_password: Secret | None = Field(None, description="Password of the client's private key.")
    client_id: str = Field(
        "tidelens",
        max_length=255,
        description="Kafka's client.id, which appears in the broker's logs.",
    )
