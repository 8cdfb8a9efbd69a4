"""The base of every configuration: typed, frozen, and closed to unknown keys."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict

_MUTABLE = (list, set, bytearray)


class Config(BaseModel):
    """A frozen section of a configuration.

    Values are taken strictly: a string is never read as a number or a truth value. Collections are
    tuples; a subclass that declares a list or a set is refused when it is defined.

    Raises:
        TypeError: On definition of a subclass with a mutable collection.
        pydantic.ValidationError: On construction in Python from wrong values.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        ser_json_inf_nan="constants",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if _mentions_mutable(field.annotation):
                raise TypeError(
                    f"{cls.__name__}.{name} is a mutable collection ({field.annotation}); "
                    "declare a tuple, so that the configuration stays frozen"
                )


def _mentions_mutable(annotation: Any) -> bool:
    if annotation in _MUTABLE or get_origin(annotation) in _MUTABLE:
        return True
    return any(_mentions_mutable(argument) for argument in get_args(annotation))
