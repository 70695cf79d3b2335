"""What is a model made of: all that the formulas of parameters, operations and bytes need?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Matrix: TypeAlias = tuple[int, int]
"""Inputs and outputs of a linear layer."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax attention. `key_dim` and `value_dim` are those of one head.

    `window` is how many positions a token sees, None for all. With latent attention `latent` numbers are
    cached per token, and `expansion` makes keys and values from them.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    latent: int | None = None
    expansion: Matrix | None = None

    @property
    def cached(self) -> int:
        """Numbers cached for one token."""
        return self.kv_heads * (self.key_dim + self.value_dim) if self.latent is None else self.latent


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A layer whose memory of a request has one size at every length: `heads` states of `key_dim` by
    `value_dim`, and the last `kernel` positions of `convolved` channels. A prefill goes by `chunk` tokens
    where it has chunks.
    """

    kind: Literal["mamba", "mamba2", "delta", "convolution"]
    heads: int
    key_dim: int
    value_dim: int
    convolved: int
    kernel: int
    chunk: int = 0

    @property
    def state(self) -> int:
        return self.heads * self.key_dim * self.value_dim


@dataclass(frozen=True, slots=True)
class Layer:
    """`count` layers of one kind.

    Every token meets `matrices`, the `router` matrix and `active` of the `experts`. `other` are the
    parameters in no product of matrices: norms, biases, convolutions. `width` is that of the dense
    feed-forward or the shared expert, `expert_width` that of one expert; 0 where there is none.
    """

    count: int = 1
    matrices: tuple[Matrix, ...] = ()
    other: int = 0
    attention: Attention | None = None
    recurrence: Recurrence | None = None
    width: int = 0
    gated: bool = True
    router: int = 0
    experts: int = 0
    active: int = 0
    expert_width: int = 0
    expert_matrices: tuple[Matrix, ...] = ()
    expert_other: int = 0


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a checkpoint packs the matrices of its layers: `bits` each, a scale for `group` inputs of an output
    or for a `block`. `scope` experts: the others stay as they are.
    """

    method: str
    bits: int
    group: int | None = None
    block: Matrix | None = None
    scope: Literal["linear", "experts"] = "linear"


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder. `source` says where it was read, `family` is the `model_type` or a GGUF's architecture.

    `embedding` are the numbers of all tables that are looked up, `head` makes the logits and shares the token
    table where `tied`. `context` is None where no length is stated. `tower` are the parameters beside the
    text model, such as a vision tower and its projector; None where unknown.
    """

    name: str
    source: str
    family: str
    hidden: int
    vocab: int
    context: int | None
    layers: tuple[Layer, ...]
    embedding: int
    head: Matrix
    tied: bool
    other: int
    tower: int | None = 0
    quantisation: Quantisation | None = None

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of each kind of layer that has one."""
        return tuple(layer.attention for layer in self.layers if layer.attention is not None)

    @property
    def is_mixture(self) -> bool:
        return any(layer.experts for layer in self.layers)
