"""docker-compose.yml as Compose would read it: merged, with variables put in and profiles applied."""

import json
import re
from typing import Any

import compose_spec
import yaml
from photos import ROOT

Document = dict[str, Any]
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def compose(**variables: str) -> Document:
    """The document, with `${NAME:-default}` replaced; raises where it uses any other kind of variable."""
    text = _VARIABLE.sub(lambda match: variables.get(match[1]) or match[2], (ROOT / "docker-compose.yml").read_text())
    assert "$" not in text, "a variable that this reader does not know"
    document: Document = yaml.safe_load(text)
    return document


def check(document: Document) -> None:
    """Raises ValueError where the Compose specification does not allow it."""
    compose_spec.ComposeSpecification.model_validate(document)
    # This reader, unlike Compose, takes an image's tag or its digest and not both.
    compose_spec.PyCompose.from_json(re.sub(r":[\w.-]+@sha256:", "@sha256:", json.dumps(document))).validate()


def started(document: Document, *profiles: str) -> set[str]:
    """Services that `docker compose up` starts with these profiles."""
    services = document["services"]
    return {
        name for name, each in services.items() if not each.get("profiles") or set(each["profiles"]) & set(profiles)
    }
