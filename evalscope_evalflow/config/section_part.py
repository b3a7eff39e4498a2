"""What every part of the section has in common: unknown keys are refused, and no message shows a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from typing_extensions import Self

from evalscope_evalflow.config.flag_hints import flag_hint
from evalscope_evalflow.errors import ConfigError, Problem, nearest

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

SECTIONS: dict[str, type[Section]] = {}  # by the key under which they stand; filled by config/section.py


class _Refusing(ModelMetaclass):
    """Has a section that is made in Python fail as one that is parsed: with ConfigError, and no value shown."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise ConfigError(*_problems(error, cls, cls.__name__)) from None  # type: ignore[arg-type]


class Section(BaseModel, metaclass=_Refusing):
    """A part of the section. Unknown keys are refused; dashes are understood as underscores."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, validate_default=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _dashes(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {str(key).replace("-", "_"): value for key, value in data.items()}

    def to_section(self) -> dict[str, Any]:
        """Only what was set, with keys as SecretStr: parses to the same again."""
        return self.model_dump(exclude_unset=True)

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str = "evalflow") -> Self:
        """Validate a mapping.

        Args:
            data: the settings.
            where: how messages name them.

        Raises:
            ConfigError: with every problem found; none of them shows a value.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(*_problems(error, cls, where)) from None


def _problems(error: ValidationError, schema: type[Section], where: str) -> Iterator[Problem]:
    either: dict[str, list[str]] = {}
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        place = ".".join([where, *(str(part) for part in item["loc"])])
        if len(item["loc"]) > 1 and _is_choice(item["loc"][-1]):  # one of the kinds that a setting may be of
            either.setdefault(place.rpartition(f".{item['loc'][-1]}")[0], []).append(item["msg"])
            continue
        if item["type"] == "extra_forbidden":
            known = _fields_at(schema, item["loc"][:-1])
            name = str(item["loc"][-1])
            hint = flag_hint(name)
            if hint:
                yield Problem(place, *hint)
            else:
                yield Problem(place, "unknown key", f"{nearest(name, known)} Known: {', '.join(known)}".strip())
        else:
            yield Problem(place, item["msg"].removeprefix("Value error, "))
    for place, messages in either.items():
        others = [said.removeprefix("Input should be ") for said in messages[1:]]
        yield Problem(place, ", or ".join([messages[0], *others]))


def _is_choice(part: int | str) -> bool:
    """Whether a part of an error's place is not of the data, but pydantic's name for one of several types."""
    return isinstance(part, str) and part.startswith(("constrained-", "literal["))


def _fields_at(schema: type[Section], location: tuple[Any, ...]) -> list[str]:
    """The keys known at a place of the section, such as ("models", 0, "deploy")."""
    for part in location:
        schema = SECTIONS.get(str(part), schema)
    return list(schema.model_fields)
