"""What do all sections of a configuration share?"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number, not true or false")
    return value


Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Positive: TypeAlias = Annotated[int, Field(gt=0), BeforeValidator(_number)]
PositiveSeconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
Number: TypeAlias = Annotated[float, BeforeValidator(_number)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Target: TypeAlias = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_number)]
# Arguments that an engine checks itself, by the names of the installed version.
Arguments: TypeAlias = dict[str, JsonValue]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, defer_build=True
    )
