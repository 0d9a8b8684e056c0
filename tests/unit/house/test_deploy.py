"""The checks of docker-compose.yml and the Dockerfile against the repository, without an engine."""

import io
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from contracts.settings import KafkaSettings, Settings
from tidelens.__main__ import cli

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {n: s for n, s in COMPOSE["services"].items() if s.get("image") == "tidelens"}
VARIABLES = {f"TIDELENS_{name.upper()}" for name in Settings.model_fields} | {
    f"TIDELENS_KAFKA_{name.upper()}" for name in KafkaSettings.model_fields
}


def test_every_service_depends_on_services_that_exist() -> None:
    assert OURS.keys() >= {"encode", "index", "topics"}
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= COMPOSE["services"].keys()
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in COMPOSE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_commands_and_variables_exist(name: str) -> None:
    service = OURS[name]
    with cli.make_context("tidelens", list(service["command"]), resilient_parsing=True) as context:
        assert cli.get_command(context, service["command"][0]) is not None
    assert set(service["environment"]) <= VARIABLES
    assert (ROOT / service["build"]["dockerfile"]).exists()


def test_the_image_copies_what_exists_and_sets_known_variables() -> None:
    parser = DockerfileParser(fileobj=io.BytesIO((ROOT / "deploy" / "Dockerfile").read_bytes()))
    steps = parser.structure
    first = next(step for step in steps if step["instruction"] != "COMMENT")
    assert first["instruction"] == "FROM"
    known = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE"}
    known |= {"ENTRYPOINT", "CMD", "COMMENT"}
    assert {step["instruction"] for step in steps} <= known
    for step in steps:
        if step["instruction"] == "COPY":
            assert (ROOT / step["value"].split()[0]).exists()
    ours = {name for name in parser.envs if name.startswith("TIDELENS_")}
    assert ours <= VARIABLES
    assert parser.envs["TIDELENS_HOST"] == "0.0.0.0"
