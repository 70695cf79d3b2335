"""What do all sections of a configuration share?"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from llenergymeasure.config.secrets import without_secrets


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number, not true or false")
    return value


Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Positive: TypeAlias = Annotated[int, Field(gt=0), BeforeValidator(_number)]
AboveZero: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
# A year at most: what lasts longer is a slip of the pen.
PositiveSeconds: TypeAlias = Annotated[
    float, Field(gt=0, le=365 * 86400, allow_inf_nan=False), BeforeValidator(_number)
]
Number: TypeAlias = Annotated[float, BeforeValidator(_number)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Target: TypeAlias = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_number)]
# Arguments that an engine checks itself, by the names of the installed version.
Arguments: TypeAlias = Annotated[dict[str, JsonValue], AfterValidator(without_secrets)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,
        # What is refused may be a secret.
        hide_input_in_errors=True,
    )
