"""The keys of a configuration, as its documentation names them."""

from pydantic import BaseModel


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """`section.key` of each key, two levels deep."""
    found = []
    for name, field in model.model_fields.items():
        inner = [
            part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(part, type)
        ]
        section = next((part for part in inner if issubclass(part, BaseModel)), None)
        found += keys(section, f"{prefix}{name}.") if section and not prefix else [f"{prefix}{name}"]
    return found
