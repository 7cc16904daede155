"""What is in README and docs: fenced blocks, the commands in them, and the shape of a JSON example."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photos import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
SHELL = ("sh", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block, and where it is."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Its commands, each in one line, without comments."""
        lines = (line.strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [re.sub(r"\s+#\s.*", "", line) for line in lines if line and not line.startswith("#")]


def blocks(*languages: str) -> list[Block]:
    """All of some languages, in order."""
    return [block for path in DOCUMENTS for block in _blocks_of(path) if block.language in languages]


def _blocks_of(path: Path) -> Iterator[Block]:
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    for match in _BLOCK.finditer(text):
        yield Block(name, text[: match.start()].count("\n") + 1, match[1], match[2])


def inline_commands() -> list[tuple[str, str]]:
    """Commands of ours that are named in a line of text, and the document."""
    found = []
    for path in DOCUMENTS:
        text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
        codes = re.findall(r"`((?:facesphere|facesphere-train|make) [^`\n]+)`", text)
        found += [(path.name, code) for code in codes]
    return found


def json_values(text: str) -> Iterator[Any]:
    """The JSON documents in what commands printed, one after the other."""
    decoder, position = json.JSONDecoder(), 0
    while (position := text.find("{", position)) >= 0:
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            position += 1
        else:
            yield value


def differences(example: Any, real: Any, where: str = "") -> list[str]:
    """Where an example has other keys, types or decisions than the real thing; `"..."` as a key stands for others."""
    if isinstance(example, dict) and isinstance(real, dict):
        shown = {*example} - {"..."}
        found = [f"{where}.{key} is not answered" for key in shown - {*real}]
        if "..." not in example:
            found += [f"{where}.{key} is not in the example" for key in {*real} - shown]
        return found + [
            each for key in shown & {*real} for each in differences(example[key], real[key], f"{where}.{key}")
        ]
    if isinstance(example, list) and isinstance(real, list):
        if bool(example) != bool(real):
            return [f"{where} has {len(real)} items"]
        pairs = enumerate(example)
        return [each for i, item in pairs for each in differences(item, real[min(i, len(real) - 1)], f"{where}[{i}]")]
    same = example == real if _is_decision(example, where) else _kind(example) == _kind(real)
    return [] if same else [f"{where} is {real!r}"]


def _is_decision(example: Any, where: str) -> bool:
    """What is no measurement, and so the same whenever an example is run."""
    return isinstance(example, bool) or where.endswith((".decision", ".code"))


def _kind(value: Any) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)
